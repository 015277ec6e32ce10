"""Batches that grow where the gradient is too noisy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any, ClassVar

from .adaptive import AdaptiveBatchSize, Proposal


@dataclass(eq=False)
class NormTest(AdaptiveBatchSize):
    """Enlarges batches where the gradient is too noisy: the norm test of Byrd et al. 2012.

    ("Sample size selection in optimization methods for machine learning", Math. Program. 134.) With the sample
    variance Var of the per-sample gradients (summed over all parameters), their mean g, and batches of size B,
    a batch is large enough where

        Var / B <= theta^2 |g|^2            else the new size is   ceil(Var / (theta^2 |g|^2))

    Here Var and |g|^2 are smoothed, so that a decision does not depend on one batch. The size never decreases.

    Args:
        theta: largest allowed error of the gradient, relative to its norm.
        size, max_size, factor, smoothing, every: as in `AdaptiveBatchSize`.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.

    Raises:
        ValueError: theta is not above 0.
    """

    reads: ClassVar[tuple[str, ...]] = ("gradient_variance", "mean_gradient_norm_sq")

    theta: float = 0.9
    min_size: int = field(init=False)
    adjust: Sequence[str] = field(init=False, default=("size",))
    lr_bounds: Sequence[float] = field(init=False, default=(1.0, 1.0))

    def __post_init__(self) -> None:
        self.min_size = self.size
        super().__post_init__()
        if not self.theta > 0:
            raise ValueError(f"theta={self.theta}: must be > 0")

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float]:
        """Returns variance and squared norm of the gradient."""
        return {name: float(values[name]) for name in self.reads}

    def propose(self, measures: Mapping[str, float]) -> Proposal:
        """Returns the size that passes the test."""
        variance, bound = measures["gradient_variance"], self.theta**2 * measures["mean_gradient_norm_sq"]
        passes = variance / self.size <= bound
        sign = "<=" if passes else ">"
        reason = f"norm test: variance / size {variance / self.size:.4g} {sign} theta^2 |g|^2 {bound:.4g}"
        size = self.size if passes else ceil(variance / bound) if bound > 0 else inf
        return Proposal(size, self.lr_scale, reason)
