"""The minimum of the quadratic model of a loss in a subspace of few directions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..curvature.curvature import Curvature
from ..vectors import inner_product

PARALLEL = 1e-6  # directions whose squared cosine, in the metric of the model, is this close to 1 count as one


class Minimum(NamedTuple):
    """The minimum of a quadratic model.

    Attributes:
        step: the sum of the directions times their coefficients.
        coefficients: of the first and of the second direction; 0 where there is none.
        slope: g.step.
        is_indefinite: whether the model has no minimum along the first direction, which is then the step.
    """

    step: list[Tensor]
    coefficients: tuple[float, float]
    slope: float
    is_indefinite: bool


def minimize_in_subspace(
    curvature: Curvature, directions: Sequence[list[Tensor]], damping: Sequence[float], free_graph: bool = False
) -> Minimum:
    """Returns the minimum of g.p + p (C + tau I) p / 2 over p = alpha d + beta s, with C the Gauss-Newton matrix.

        (Q + N) (alpha, beta) = b,   Q = [d C d, d C s; s C d, s C s],  N likewise with tau I,  b = -(g.d, g.s)

    (Martens and Grosse 2015, section 7, with s the last step.) Where the 2x2 matrix is not positive definite, as the
    two are parallel or a regularizer bends the model down, s is left out.

    Args:
        curvature: with the gradient g, and C.
        directions: d, and s where there was a step; of the shapes of the parameters.
        damping: tau of each parameter.
        free_graph: free the curvature's graph.
    """
    damped = [torch._foreach_mul(v, list(damping)) for v in directions]
    N = torch.stack([torch.stack([inner_product(v, w) for w in directions]) for v in damped])
    matrix = (curvature.gram(directions, free_graph) + N).cpu()
    b = -torch.stack([inner_product(curvature.gradient, v) for v in directions]).cpu()
    coefficients = torch.zeros(2, dtype=torch.float64)
    is_indefinite = not float(matrix[0, 0]) > 0
    if is_indefinite:
        coefficients[0] = 1.0
    elif len(directions) == 2 and is_definite(matrix):
        coefficients[:] = torch.linalg.solve(matrix, b)
    else:
        coefficients[0] = b[0] / matrix[0, 0]
    alpha, beta = coefficients.tolist()
    step = list(torch._foreach_mul(directions[0], alpha))
    if len(directions) == 2:
        torch._foreach_add_(step, directions[1], alpha=beta)
    return Minimum(step, (alpha, beta), -float(b @ coefficients[: len(b)]), is_indefinite)


def is_definite(matrix: Tensor) -> bool:
    """Returns whether a symmetric matrix (2, 2) is positive definite beyond rounding."""
    a, b, c = float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 1])
    return a > 0 and b > 0 and c * c < (1 - PARALLEL) * a * b
