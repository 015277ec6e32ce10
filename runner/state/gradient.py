"""What is done with the gradient of a batch before the optimizer gets it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientOptions:
    """Clipping of the gradient of a whole batch, and the parts in which it is computed; by default neither.

    Args:
        clip_norm: the longest gradient, by its L2 norm over all parameters; a longer one is scaled to this (Pascanu
            et al. 2013, arXiv 1211.5063, algorithm 1). None: it is not.
        clip_value: every element is clipped to [-clip_value, clip_value]. None: it is not.
        accumulation_steps: a batch is processed in so many parts, one after another, and their gradients are added up.
    """

    clip_norm: float | None = None
    clip_value: float | None = None
    accumulation_steps: int = 1

    @property
    def keys(self) -> list[str]:
        """The keys that are in use, as `gradient.clip_norm=1.0`."""
        used = {
            "clip_norm": self.clip_norm is not None,
            "clip_value": self.clip_value is not None,
            "accumulation_steps": self.accumulation_steps > 1,
        }
        return [f"gradient.{name}={getattr(self, name)}" for name, is_used in used.items() if is_used]

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped."""
        return self.clip_norm is not None or self.clip_value is not None

    def parts(self, size: int) -> list[slice]:
        """Returns the parts of a batch of a size, which differ by at most one sample.

        >>> GradientOptions(accumulation_steps=3).parts(8)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
        """
        count = min(self.accumulation_steps, size)
        bounds = [-(-size * k // count) for k in range(count + 1)]
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def clip(self, parameters: Sequence[Tensor]) -> Tensor:
        """Clips `p.grad` in place; returns the gradient's norm before, a scalar."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        if self.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.clip_value)
        return norm
