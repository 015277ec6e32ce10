"""How well the quadratic model of the loss predicts the change that a step makes."""

from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers import taylor_estimates

from ..state.run import Probe, Run
from ..state.snapshot import RunSnapshot


class TaylorProbe(Probe):
    """Compares L(w + d), where d is the step that was made, with its first- and second-order Taylor estimates at w.

    L is the whole loss of the step's batch with all regularizers, in training mode and with the dropout mask of the
    step's first forward pass, at w and at w + d (Menssen 2019, appendix B). w + d is the weights after the step,
    rounded once more.

    A row holds, in the unit of the loss: `loss` L(w), `actual_change` L(w + d) - L(w), `first_order_change` g.d,
    `second_order_change` g.d + d.Hd / 2, `first_order_error` and `second_order_error` (the actual change minus the
    estimate); and `change_ratio`, the actual change over `second_order_change`: 1 where the quadratic model holds,
    null where it predicts no change. A loss in float32 has seven digits: a change below 1e-6 of the loss is noise.
    A measured step costs two losses, a gradient, a Hessian-vector product, and three copies of the weights.

    Args:
        every: a duration; the step that completes it is measured.
    """

    needs_graph = True
    takes_shard = True

    def __init__(self, every: str = "50steps"):
        self.every = every

    def before_step(self, run: Run, batch: Batch) -> None:
        """Takes a snapshot of the run before the step."""
        del batch
        self._start = RunSnapshot(run)

    def after_step(self, run: Run, batch: Batch) -> dict[str, float | None]:
        """Returns the actual and the predicted changes of the loss."""
        start = self._start
        del self._start  # frees its memory
        step = [p.detach() - w for p, w in zip(start.params, start.weights, strict=True)]

        def loss() -> Tensor:
            start.restore_pass()
            return run.loss(batch)

        with start.active():
            estimates = taylor_estimates(loss, start.params, step, run.shard)
        actual, predicted = estimates.actual - estimates.value, estimates.slope + estimates.curvature / 2
        return {
            "loss": estimates.value,
            "actual_change": actual,
            "first_order_change": estimates.slope,
            "second_order_change": predicted,
            "first_order_error": actual - estimates.slope,
            "second_order_error": actual - predicted,
            "change_ratio": actual / predicted if predicted else None,
        }
