"""Gaussian hills with their first and second derivatives in closed form.

    f(theta) = sum_c h_c,  h_c = s * exp(-||d_c||^2 / (2 sigma_c^2)),  d_c = theta - theta_c
    grad f   = -sum_c h_c / sigma_c^2 * d_c
    H v      =  sum_c h_c / sigma_c^2 * (d_c <d_c, v> / sigma_c^2 - v)

Differences and heights are computed once, and serve all three: two passes over the parameters for each hill.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..vectors import flatten, unflatten


def height(distances: Tensor, widths: Tensor) -> Tensor:
    """Returns exp(-distance^2 / (2 width^2)), which is 0 far away."""
    return torch.exp(-0.5 * (distances / widths).square())


def slope(differences: Tensor, heights: Tensor, widths: Tensor) -> Tensor:
    """Returns grad f (n,)."""
    return -(heights / widths.square()) @ differences


class Hills(Function):
    """f, from differences (C, n), heights (C,) and widths (C,) at the parameters, which are n in all."""

    @staticmethod
    def forward(ctx: Any, differences: Tensor, heights: Tensor, widths: Tensor, *params: Tensor) -> Tensor:
        """Returns the sum of the heights; the graph's node keeps `differences` and has a method `slope`."""
        ctx.differences, ctx.heights, ctx.widths, ctx.params = differences, heights, widths, params
        ctx.slope = lambda: slope(differences, heights, widths)
        return heights.sum()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple:
        """Returns the gradients with respect to the parameters, themselves differentiable once."""
        return None, None, None, *Slope.apply(g, ctx.differences, ctx.heights, ctx.widths, *ctx.params)


class Slope(Function):
    """g * grad f, in the shapes of the parameters."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, differences: Tensor, heights: Tensor, widths: Tensor, *params: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns a part for each parameter."""
        ctx.set_materialize_grads(False)
        ctx.g, ctx.differences, ctx.heights, ctx.widths, ctx.params = g, differences, heights, widths, params
        return tuple(unflatten(slope(differences, g * heights, widths), params))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *vectors: Tensor | None) -> tuple:
        """Returns <grad f, v> for g, and g * H v for the parameters."""
        v = flatten(zeros_for_none(vectors, ctx.params))
        d, weights = ctx.differences, ctx.heights / ctx.widths.square()
        along = d @ v
        product = (weights * along / ctx.widths.square()) @ d - weights.sum() * v
        return -(weights * along).sum(), None, None, None, *unflatten(ctx.g * product, ctx.params)


def zeros_for_none(parts: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Returns the parts, with zeros in the shapes of `like` where there is None."""
    return [torch.zeros_like(t) if part is None else part for part, t in zip(parts, like, strict=True)]
