"""Checks of arguments."""

from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError if the value of an argument is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value}: must be one of {', '.join(choices)}")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError if the value of an argument is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: must be in [0, 1], a fraction of the learning rate")


def check_dense(gradients: Iterable[Tensor | None]) -> None:
    """Raises ValueError if a gradient is sparse; None is none."""
    if any(g is not None and g.layout != torch.strided for g in gradients):
        raise ValueError("gradients must not be sparse; give sparse=False, as in nn.Embedding(..., sparse=False)")


def check_shapes(name: str, tensors: Sequence[Tensor], like: Sequence[Tensor]) -> None:
    """Raises ValueError if tensors have other shapes than those that they must be like."""
    shapes, right = [tuple(t.shape) for t in tensors], [tuple(t.shape) for t in like]
    if shapes != right:
        raise ValueError(f"{name}: the shapes are {shapes}, and must be {right}")
