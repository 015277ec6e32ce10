"""Condition and energy of the per-sample gradients of a step (Liao 2018)."""

from math import isfinite, nan
from typing import Any

from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers.per_sample.spectrum import moments, spectrum

from ..state.run import Probe, Run
from .step_gram import StepGram, check_rows


class FisherProbe(Probe):
    r"""Measures the approximate Fisher matrix of each due step, from J, whose row i is the gradient of sample i.

    c_k = sigma_max / sigma_min      over the singular values of J that are not zero
    C_K = mean of all c_k so far
    l_k = lr / B sqrt(trace(J J^T))
    L_K = sum of all l_k so far, divided by the fraction of the steps so far that were measured

    (Liao 2018, equations 7 and 8; the authors' program divides L_K by that fraction, so that it estimates the sum
    over all steps.) B is the batch size, lr the learning rate of the step. `StepGram` describes the rows and the pass
    that they come from. With adaptive Nesterov momentum, that pass is at the look-ahead point; with optimizers that
    need the graph (EHNewton, Newton) and with compile=true it is an extra one, which costs a gradient.

    A row of metrics.jsonl also holds `lr`, `batch_size`, `trace`, `rank`, `sigma_max`, `sigma_min`,
    `mean_gradient_norm_sq` (|g|^2, where g is the mean of the rows) and `gradient_variance` (trace of their sample
    covariance). Values that are undefined are null: of gradients that are not finite, of a step without a learning
    rate, and the variance of a single sample. Means and sums leave out null.

    Where the batch size changes during the run, `every` should be in steps: in epochs, large batches would be
    measured more often than small ones, and dominate L_K.

    Args:
        every: a duration; the step that completes it is measured.
        each_epoch: measure the steps 1, 1 + n, 1 + 2n, ... of every epoch, where `every` is n steps (the study: 50).
        rows: "batch", the study's definition, or "own_loss".
        zero_below: a singular value counts as zero where it is at most this times the largest. In float32, singular
            values that should be zero come out as up to 2e-5 (a ResNet-8 with samples that are twice in a batch); the
            smallest others were 4e-4 (an MLP). 0 is the rule of the study's program: rounding errors are then the
            smallest.
        spectrum: also write all singular values into the row, as `spectrum`, including zeros.
        benchmark: choose each layer's form of computation by timing; see `StepGram`.
        share_gradients: the step takes gradients from the measurement; see `StepGram`.

    Attributes:
        last: the values of the last row, with its `step`; empty before the first.
        gram: the last G = J J^T (B, B); None before the first, also after a run was resumed.

    Raises:
        ValueError: `rows` is neither, or `zero_below` is not in [0, 1).
    """

    takes_shard = True

    def __init__(
        self,
        every: str = "10steps",
        each_epoch: bool = False,
        rows: str = "batch",
        zero_below: float = 1e-4,
        spectrum: bool = False,
        benchmark: bool = False,
        share_gradients: bool = False,
    ):
        check_rows(rows)
        if not 0 <= zero_below < 1:
            raise ValueError(f"zero_below={zero_below}: must be in [0, 1)")
        self.every, self.each_epoch, self.rows = every, each_epoch, rows
        self.zero_below, self.spectrum = zero_below, spectrum
        self.benchmark, self.share_gradients = benchmark, share_gradients
        self.last: dict[str, Any] = {}
        self.gram: Tensor | None = None
        self._conditions, self._sum_of_conditions = 0, 0.0
        self._energies, self._sum_of_energies = 0, 0.0

    def attach(self, run: Run) -> None:
        """Prepares the recording; ValueError where the network has no per-sample gradients."""
        self._step_gram = StepGram.of(run, self.rows, benchmark=self.benchmark, share_gradients=self.share_gradients)
        self.records_step = self._step_gram.records_step

    def before_step(self, run: Run, batch: Batch) -> None:
        """Begins to record the step."""
        del run
        self._step_gram.prepare(batch)

    def after_step(self, run: Run, batch: Batch) -> dict[str, Any]:
        """Returns the values of the step, and adds them to the means and sums."""
        self.gram = self._step_gram.matrix(batch)
        values = self._step_values(self.gram, batch.size, run.update.lr)
        self.last = {"step": run.progress.step, **values, **self._running_values(values, run.progress.step)}
        return self.last

    def _step_values(self, gram: Tensor, size: int, lr: Any) -> dict[str, Any]:
        trace, norm_sq, variance = moments(gram)
        lr = nan if lr is None else float(lr)
        values: dict[str, Any] = {
            "c_k": nan,
            "l_k": lr / size * max(trace, 0.0) ** 0.5 if isfinite(trace) else nan,
            "trace": trace,
            "rank": None,
            "sigma_max": nan,
            "sigma_min": nan,
            "mean_gradient_norm_sq": norm_sq,
            "gradient_variance": variance,
            "batch_size": size,
            "lr": lr,
        }
        if gram.isfinite().all():
            sigma = spectrum(gram, self.zero_below)
            values |= {"c_k": sigma.condition, "rank": sigma.rank}
            values |= {"sigma_max": sigma.largest, "sigma_min": sigma.smallest}
            if self.spectrum:
                values["spectrum"] = sigma.values
        return {name: _or_null(value) for name, value in values.items()}

    def _running_values(self, values: dict[str, Any], steps: int) -> dict[str, float | None]:
        if values["c_k"] is not None:
            self._conditions += 1
            self._sum_of_conditions += values["c_k"]
        if values["l_k"] is not None:
            self._energies += 1
            self._sum_of_energies += values["l_k"]
        return {
            "C_K": self._sum_of_conditions / self._conditions if self._conditions else None,
            "L_K": self._sum_of_energies / (self._energies / steps) if self._energies else None,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums so far and the last row."""
        return {
            "conditions": self._conditions,
            "sum_of_conditions": self._sum_of_conditions,
            "energies": self._energies,
            "sum_of_energies": self._sum_of_energies,
            "last": self.last,
            **self._step_gram.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._conditions, self._sum_of_conditions = state["conditions"], state["sum_of_conditions"]
        self._energies, self._sum_of_energies = state["energies"], state["sum_of_energies"]
        self.last = state["last"]
        self._step_gram.load_state_dict(state)


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
