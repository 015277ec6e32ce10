"""Gradient noise scale, and the angle between successive gradients."""

from math import isfinite, nan
from typing import Any

import torch
from torch import Tensor

from trainopt.data import Batch
from trainopt.optimizers.per_sample.spectrum import moments

from ..state.run import Probe, Run
from .step_gram import StepGram, check_rows


class GradientNoiseProbe(Probe):
    r"""Measures the simple gradient noise scale, and the angle between the gradients of successive steps.

    B_simple = tr(Sigma) / |G|^2

    where G is the gradient of the loss over all images, and Sigma the covariance of the gradients of single images;
    in a batch much smaller than B_simple the gradient is mostly noise (McCandlish et al. 2018, arXiv 1812.06162,
    equation 2.9). With the B gradients g_i of a batch and their mean g, the unbiased estimates of the paper's
    appendix A, for batch sizes 1 and B, are

    tr(Sigma) = (sum_i |g_i|^2 - B |g|^2) / (B - 1)
    |G|^2 = |g|^2 - tr(Sigma) / B

    A row of metrics.jsonl holds `gradient_variance` (tr(Sigma)), `gradient_norm_sq` (|G|^2, negative where the noise
    is larger than the gradient), `noise_scale` (their quotient; null where |G|^2 <= 0) and `smoothed_noise_scale`, the
    quotient of the exponential moving averages of both, as the paper recommends. They are null for a batch of one.
    `cosine` is the cosine of the angle between the gradients of the whole loss at this step and at the one before.
    It is computed from `p.grad`, and is null at the first step of a run and with an optimizer that needs the graph
    (EHNewton, Newton).

    The g_i are the rows of `StepGram`, shared with the fisher probe: where both are due and have the same `rows`,
    the matrix is computed once. The estimates hold for independent rows. With batch norm, those of rows="batch" depend
    on one another, and tr(Sigma) is overestimated, often so that |G|^2 <= 0: rows="own_loss" is right there.
    Checkpoints hold `p.grad`, so that a resumed run has the cosine of its first step too.

    Args:
        every: a duration; the step that completes it is measured.
        each_epoch: measure the steps 1, 1 + n, 1 + 2n, ... of every epoch, where `every` is n steps.
        rows: "batch" or "own_loss"; without batch norm the two differ in cost only.
        smoothing: weight of the past in the moving averages, in [0, 1).
        benchmark: choose each layer's form of computation by timing; see `StepGram`.
        share_gradients: the step takes gradients from the measurement; see `StepGram`.

    Attributes:
        last: the values of the last row, with its `step`; empty before the first.

    Raises:
        ValueError: `rows` is neither, or `smoothing` is out of its range.
    """

    takes_shard = True

    def __init__(
        self,
        every: str = "10steps",
        each_epoch: bool = False,
        rows: str = "batch",
        smoothing: float = 0.9,
        benchmark: bool = False,
        share_gradients: bool = False,
    ):
        check_rows(rows)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing}: must be in [0, 1)")
        self.every, self.each_epoch, self.rows, self.smoothing = every, each_epoch, rows, smoothing
        self.benchmark, self.share_gradients = benchmark, share_gradients
        self.last: dict[str, Any] = {}
        self._variance = self._norm_sq = 0.0  # averages that begin at 0: both are biased by the same factor
        self._previous: list[Tensor | None] = []  # gradients of the step before

    def attach(self, run: Run) -> None:
        """Prepares the recording; ValueError where the network has no per-sample gradients."""
        self._step_gram = StepGram.of(run, self.rows, benchmark=self.benchmark, share_gradients=self.share_gradients)
        self.records_step = self._step_gram.records_step
        self._params = [p for p in run.network.parameters() if p.requires_grad]

    def before_step(self, run: Run, batch: Batch) -> None:
        """Begins to record the step, and keeps the gradient of the step before."""
        del run
        self._previous = [p.grad for p in self._params]
        self._step_gram.prepare(batch)

    def after_step(self, run: Run, batch: Batch) -> dict[str, Any]:
        """Returns the estimates, and adds them to the moving averages."""
        gram = self._step_gram.matrix(batch)
        _, mean_norm_sq, variance = moments(gram)
        norm_sq = mean_norm_sq - variance / len(gram)
        if isfinite(norm_sq):
            past = self.smoothing
            self._variance = past * self._variance + (1 - past) * variance
            self._norm_sq = past * self._norm_sq + (1 - past) * norm_sq
        values = {
            "noise_scale": quotient(variance, norm_sq),
            "smoothed_noise_scale": quotient(self._variance, self._norm_sq),
            "gradient_variance": variance,
            "gradient_norm_sq": norm_sq,
            "cosine": cosine(self._previous, [p.grad for p in self._params]),
        }
        self._previous = []  # frees their memory
        finite = {name: value if isfinite(value) else None for name, value in values.items()}
        self.last = {"step": run.progress.step, **finite, "batch_size": batch.size}
        return self.last

    def state_dict(self) -> dict[str, Any]:
        """Returns the moving averages, the last row, and the gradient of the last step."""
        gradients = [p.grad for p in self._params]
        values = {"variance": self._variance, "norm_sq": self._norm_sq, "last": self.last, "gradients": gradients}
        return {**values, **self._step_gram.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned; sets `p.grad`."""
        self._variance, self._norm_sq, self.last = state["variance"], state["norm_sq"], state["last"]
        self._step_gram.load_state_dict(state)
        for p, gradient in zip(self._params, state["gradients"], strict=True):
            p.grad = None if gradient is None else gradient.to(p.device)


def quotient(variance: float, norm_sq: float) -> float:
    """Returns variance / norm_sq; nan where that is not above 0."""
    return variance / norm_sq if norm_sq > 0 else nan


def cosine(one: list[Tensor | None], other: list[Tensor | None]) -> float:
    """Returns the cosine between two gradients, over the parameters that have both; nan where none has."""
    pairs = [(a.double(), b.double()) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return nan
    products = torch.stack([torch.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()]) for a, b in pairs])
    inner, one_sq, other_sq = products.sum(0).tolist()
    return inner / (one_sq * other_sq) ** 0.5 if one_sq * other_sq > 0 else nan
