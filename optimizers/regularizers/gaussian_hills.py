"""Gaussian hills with their first and second derivatives in closed form.

    f(theta) = sum_c h_c,  h_c = s * exp(-||d_c||^2 / (2 sigma_c^2)),  d_c = theta - theta_c
    grad f   = -sum_c h_c / sigma_c^2 * d_c
    H v      =  sum_c h_c / sigma_c^2 * (d_c <d_c, v> / sigma_c^2 - v)

Differences and heights are computed once for all three: two passes over the parameters for each hill.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..vectors import flatten, unflatten


def gaussian(distances: Tensor, widths: Tensor) -> Tensor:
    """Returns exp(-distance^2 / (2 width^2)), which underflows to 0 far away."""
    return torch.exp(-0.5 * (distances / widths).square())


def gradient(differences: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Returns grad f (n,)."""
    return -(heights / widths.square()) @ differences


class GaussianHills(Function):
    """f, from differences (C, n), heights (C,) and widths (C,), and the parameters, of n elements together."""

    @staticmethod
    def forward(ctx: Any, differences: Tensor, heights: Tensor, widths: Tensor, *params: Tensor) -> Tensor:
        """Returns the sum of the heights; the graph's node has `differences` and a method `gradient`."""
        ctx.differences, ctx.heights, ctx.widths, ctx.params = differences, heights, widths, params
        ctx.gradient = lambda: gradient(differences, heights, widths)
        return heights.sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        """Returns the gradients with respect to the parameters, themselves differentiable once."""
        return None, None, None, *_Gradient.apply(g, ctx.differences, ctx.heights, ctx.widths, *ctx.params)


class _Gradient(Function):
    """g * grad f, in the shapes of the parameters."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, differences: Tensor, heights: Tensor, widths: Tensor, *params: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns one tensor for each parameter."""
        ctx.set_materialize_grads(False)
        ctx.g, ctx.differences, ctx.heights, ctx.widths, ctx.params = g, differences, heights, widths, params
        return tuple(unflatten(gradient(differences, g * heights, widths), params))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple:
        """Returns <grad f, v> for g, and g * H v for the parameters."""
        v = flatten(zeros_for_none(vectors, ctx.params))
        d, weights = ctx.differences, ctx.heights / ctx.widths.square()
        products = d @ v
        Hv = (weights * products / ctx.widths.square()) @ d - weights.sum() * v
        return -(weights * products).sum(), None, None, None, *unflatten(ctx.g * Hv, ctx.params)


def zeros_for_none(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Returns the parts, with zeros in the shapes of `like` for None."""
    return [torch.zeros_like(t) if part is None else part for part, t in zip(parts, like, strict=True)]
