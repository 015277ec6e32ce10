"""Lists of tensors as vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two lists of tensors of equal shapes, a scalar; 0 for empty lists.

    >>> dot([torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])]).item()
    11.0
    """
    if not a:
        return torch.zeros(())
    return torch.stack([_dot(x, y) for x, y in zip(a, b, strict=True)]).sum()


def _dot(x: Tensor, y: Tensor) -> Tensor:
    if x.is_contiguous() and y.is_contiguous():
        return torch.dot(x.view(-1), y.view(-1))
    return (x * y).sum()


def norm(a: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean length, a scalar."""
    return dot(a, a).sqrt()
