"""The measures of Liao 2018: how well conditioned a step's gradients are, and their energy."""

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
    L_K = sum of all l_k so far, over the share of the steps so far that were measured

    (Liao 2018, equations 7 and 8; that L_K is divided by the share is in the authors' program: it then stands for
    the sum over all steps.) B is the step's batch, lr the learning rate that the step was made with. The rows, and
    from which pass they come, are described at `StepGram`: with `rows="batch"`, from the step's own. That of
    adaptive Nesterov momentum is at the point that it looks ahead to; optimizers that need the graph (EHNewton,
    Newton) and compile=true cost a gradient more. A row of metrics.jsonl also says `lr`, `batch_size`, `trace`,
    `rank`, `sigma_max`, `sigma_min`, `mean_gradient_norm_sq` (|g|^2, g being the mean of the rows) and
    `gradient_variance` (trace of their sample covariance). What cannot be said is null: of gradients that are not
    finite, of a step without a learning rate, and the variance of a single sample. null enters no mean and no sum.

    Where the batch size changes during the run, measure every so many steps: with `every` in epochs, large batches
    would be measured more densely than small ones, and L_K would be theirs.

    Args:
        every: a duration; the step that completes it is measured.
        each_epoch: measure the steps 1, 1 + n, 1 + 2n, ... of every epoch, where `every` is n steps. The study:
            n = 50.
        rows: "batch", the study's definition, or "own_loss".
        zero_below: a singular value counts as zero where it is at most this times the largest. Of what is zero,
            float32 leaves up to 2e-5 (a ResNet-8 with samples that are twice in a batch); the smallest other ones
            were at 4e-4 (an MLP). 0 is the rule of the study's program, with which noise becomes the smallest.
        spectrum: write all singular values into the row too, as `spectrum`, zeros among them.

    Attributes:
        last: the last row's values, with its `step`; empty before the first.
        gram: the last G = J J^T (B, B); None before the first, also of a run that goes on.

    Raises:
        ValueError: `rows` is none of the two, or `zero_below` not in [0, 1).
    """

    def __init__(
        self,
        every: str = "10steps",
        each_epoch: bool = False,
        rows: str = "batch",
        zero_below: float = 1e-4,
        spectrum: bool = False,
    ):
        check_rows(rows)
        if not 0 <= zero_below < 1:
            raise ValueError(f"zero_below={zero_below}: must be in [0, 1)")
        self.every, self.each_epoch, self.rows = every, each_epoch, rows
        self.zero_below, self.spectrum = zero_below, spectrum
        self.last: dict[str, Any] = {}
        self.gram: Tensor | None = None
        self._conditions, self._sum_of_conditions = 0, 0.0
        self._energies, self._sum_of_energies = 0, 0.0

    def attach(self, run: Run) -> None:
        """Finds out what there is to record; ValueError where the network cannot be measured."""
        self._step_gram = StepGram.of(run, self.rows)
        self.records_step = self._step_gram.records_step

    def before_step(self, run: Run, batch: Batch) -> None:
        """Asks for the step's matrix."""
        del run
        self._step_gram.watch(batch)

    def after_step(self, run: Run, batch: Batch) -> dict[str, Any]:
        """Returns the measures, and count them in."""
        self.gram = self._step_gram.taken(batch)
        values = self._of_batch(self.gram, batch.size, run.update.lr)
        self.last = {"step": run.progress.step, **values, **self._so_far(values, run.progress.step)}
        return self.last

    def _of_batch(self, gram: Tensor, size: int, lr: Any) -> dict[str, Any]:
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
            found = spectrum(gram, self.zero_below)
            values |= {"c_k": found.condition, "rank": found.rank}
            values |= {"sigma_max": found.largest, "sigma_min": found.smallest}
            if self.spectrum:
                values["spectrum"] = found.values
        return {name: _or_null(value) for name, value in values.items()}

    def _so_far(self, values: dict[str, Any], steps: int) -> dict[str, float | None]:
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
        """Returns the sums so far, and the last row."""
        return {
            "conditions": self._conditions,
            "sum_of_conditions": self._sum_of_conditions,
            "energies": self._energies,
            "sum_of_energies": self._sum_of_energies,
            "last": self.last,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._conditions, self._sum_of_conditions = state["conditions"], state["sum_of_conditions"]
        self._energies, self._sum_of_energies = state["energies"], state["sum_of_energies"]
        self.last = state["last"]


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value
