"""The solution of a system of equations, and what a step says of its systems."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..curvature.conjugate_gradient import CGInfo
from ..scalars import Scalar

NOT_FINITE = "the gradient is not finite, or the curvature along it"

Condition = bool | Tensor


class Solution(NamedTuple):
    """The solution of a system.

    Attributes:
        p: the direction.
        iterations: of conjugate gradients.
        residual: at the end.
        is_negative: whether a direction of negative curvature ended them.
        products: with the matrix, or quadratic forms.
        slope: g.p.
        is_fallback: whether p is -g, as the feasibility test failed.
        squares: the squared length of each part of p, where there is a closed form; empty: the parts have it.
    """

    p: list[Tensor]
    iterations: Scalar
    residual: Scalar
    is_negative: Condition
    products: Scalar
    slope: Scalar = 0.0
    is_fallback: Condition = False
    squares: Sequence[Scalar] = ()

    @classmethod
    def of(cls, p: list[Tensor], info: CGInfo) -> "Solution":
        """Returns what conjugate gradients have found."""
        return cls(p, info.iterations, info.residual, info.reason == "negative_curvature", info.products)

    @property
    def numbers(self) -> list[Scalar]:
        """What reports are made of."""
        return [self.iterations, self.residual, self.is_negative, self.products, self.is_fallback]


class Minimized(NamedTuple):
    """What the step in a subspace adds to a report: alpha and beta, where there was a step."""

    is_made: Condition
    alpha: Scalar
    beta: Scalar


LENGTH = len(Solution._fields) - 3  # of `Solution.numbers`


def report_of(numbers: Sequence[float], systems: int) -> dict[str, Any]:
    """Returns what a step says of itself, as of `EHNewton.last_step`.

    Args:
        numbers: those of each solution, one after another; g.p, the length of the step, its cost; then, with a
            subspace, those of `Minimized`.
        systems: number of the solutions.
    """
    solutions = [numbers[LENGTH * k : LENGTH * (k + 1)] for k in range(systems)]
    slope, length, cost, *minimized = numbers[LENGTH * systems :]
    columns = list(zip(*solutions, strict=True)) or [()] * LENGTH
    iterations, residuals, negative, products, fallbacks = columns
    subspace = dict(zip(("alpha", "beta"), minimized[1:], strict=False)) if minimized and minimized[0] else {}
    return {
        **subspace,
        "cg_iterations": int(max(iterations, default=0)),
        "residual": math.hypot(*residuals),
        "fallbacks": int(sum(fallbacks)),
        "negative_curvature": int(sum(negative)),
        "directional_derivative": slope,
        "hvps": int(sum(products)),
        "step_length": length,
        "gradient_equivalents": cost,
    }
