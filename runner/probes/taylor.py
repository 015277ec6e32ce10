"""How well the quadratic model of the loss foretells what a step does to it."""

from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers import taylor_estimates

from ..state.run import Probe, Run
from ..state.snapshot import Moment


class TaylorProbe(Probe):
    """Compares L(w + d), d being the step that was made, with its first- and second-order Taylor estimates at w.

    L is the whole loss of the step's own batch, regularizers included, in training mode and with the dropout mask
    of the step's first evaluation, at w and at w + d alike (Menssen 2019, appendix B). w + d is the weights that
    the step led to, rounded once more.

    A row says, in the unit of the loss: `loss` L(w), `actual_change` L(w + d) - L(w), `first_order_change` g.d,
    `second_order_change` g.d + d.Hd / 2, `first_order_error` and `second_order_error` (the actual change less the
    estimate); and `change_ratio`, the actual change over `second_order_change`: 1 where the quadratic model holds,
    null where it foretells no change. Losses of float32 carry seven digits: a change below 1e-6 of the loss is
    noise. A due step costs two losses, a gradient and a Hessian-vector product, and three copies of the weights.

    Args:
        every: a duration; the step that completes it is measured.
    """

    needs_graph = True

    def __init__(self, every: str = "50steps"):
        self.every = every

    def before_step(self, run: Run, batch: Batch) -> None:
        """Remembers where the step starts from."""
        del batch
        self._start = Moment(run)

    def after_step(self, run: Run, batch: Batch) -> dict[str, float | None]:
        """Returns the changes foretold and found."""
        start = self._start
        del self._start  # its memory goes with it
        step = [p.detach() - w for p, w in zip(start.params, start.weights, strict=True)]

        def loss() -> Tensor:
            start.repeat()
            return run.objective(batch.inputs, batch.targets)[0]

        with start.visited():
            found = taylor_estimates(loss, start.params, step)
        actual, foretold = found.actual - found.value, found.slope + found.curvature / 2
        return {
            "loss": found.value,
            "actual_change": actual,
            "first_order_change": found.slope,
            "second_order_change": foretold,
            "first_order_error": actual - found.slope,
            "second_order_error": actual - foretold,
            "change_ratio": actual / foretold if foretold else None,
        }
