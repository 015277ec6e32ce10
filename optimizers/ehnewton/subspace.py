"""The minimum of the quadratic model of a loss in a subspace of few directions."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..scalars import Scalar, add_scaled, number, scaled, scaled_each
from ..vectors import inner_product

PARALLEL = 1e-6  # directions whose squared cosine, in the metric of the model, is this close to 1 count as one


class Minimum(NamedTuple):
    """The minimum of a quadratic model.

    Attributes:
        step: the sum of the directions times their coefficients.
        coefficients: of the first and of the second direction (2,), in float64; 0 where there is none.
        slope: g.step.
        is_indefinite: whether the model has no minimum along the first direction, which is then the step.
    """

    step: list[Tensor]
    coefficients: Tensor
    slope: Scalar
    is_indefinite: bool | Tensor


def damping_gram(directions: Sequence[list[Tensor]], damping: Sequence[Scalar]) -> Tensor:
    """Returns N (k, k), in float64: v.(tau w) over all pairs of k directions, with tau of each parameter."""
    damped = [scaled_each(v, damping) for v in directions]
    return torch.stack([torch.stack([inner_product(v, w) for w in directions]) for v in damped])


def minimize_in_subspace(
    gradient: Sequence[Tensor],
    directions: Sequence[list[Tensor]],
    matrix: Tensor,
    on_device: bool = False,
    most: Scalar | None = None,
) -> Minimum:
    """Returns the minimum of g.p + p (C + tau I) p / 2 over p = alpha d + beta s, with C the Gauss-Newton matrix.

        (Q + N) (alpha, beta) = b,   Q = [d C d, d C s; s C d, s C s],  N likewise with tau I,  b = -(g.d, g.s)

    (Martens and Grosse 2015, section 7, with s the last step.) Where the 2x2 matrix is not positive definite, as the
    two are parallel or a regularizer bends the model down, s is left out.

    Args:
        gradient: g.
        directions: d, and s where there was a step; of the shapes of the parameters.
        matrix: Q + N.
        on_device: compute with numbers of the device, and read none.
        most: by which the model may fall; where it would fall by more, the step is shortened to that. None: any.
    """
    b = -torch.stack([inner_product(gradient, v) for v in directions])
    solve = coefficients_on_device if on_device else coefficients_of
    coefficients, is_indefinite = solve(*(x if on_device else x.cpu() for x in (matrix, b)))
    slope = -number(b.to(coefficients.device) @ coefficients[: len(b)], on_device)
    if most is not None:
        factor = fraction_of_step(-slope / 2, most)
        coefficients, slope = coefficients * factor, slope * factor
    alpha, beta = (number(x, on_device) for x in coefficients)
    step = scaled(directions[0], alpha)
    for part, last in zip(step, directions[1], strict=True) if len(directions) == 2 else ():
        add_scaled(part, last, beta)
    return Minimum(step, coefficients, slope, is_indefinite)


def fraction_of_step(decrease: Scalar, most: Scalar) -> Scalar:
    """Returns the largest c <= 1 with (2c - c^2) decrease <= most: a model that is least at p falls by that at c p."""
    if isinstance(decrease, Tensor):
        fraction = 1 - (1 - most / decrease).clamp(min=0).sqrt()
        return torch.where(decrease > most, fraction, torch.ones_like(fraction))
    return 1 - math.sqrt(1 - most / decrease) if decrease > most else 1.0


def coefficients_of(matrix: Tensor, b: Tensor) -> tuple[Tensor, bool | Tensor]:
    """Returns the coefficients (2,) of the minimum, and whether it has none along the first direction.

    Args:
        matrix: (k, k) for k = 1 or 2 directions.
        b: (k,).
    """
    coefficients = torch.zeros(2, dtype=torch.float64)
    is_indefinite = not float(matrix[0, 0]) > 0
    if is_indefinite:
        coefficients[0] = 1.0
    elif len(b) == 2 and is_definite(matrix):
        coefficients[:] = torch.linalg.solve(matrix, b)
    else:
        coefficients[0] = b[0] / matrix[0, 0]
    return coefficients, is_indefinite


def coefficients_on_device(matrix: Tensor, b: Tensor) -> tuple[Tensor, bool | Tensor]:
    """Does the same and reads no number: both equations are solved by elimination, with the larger pivot."""
    a, one = matrix[0, 0], torch.ones_like(b[0])
    is_indefinite = ~(a > 0)
    alone = b[0] / a
    if len(b) == 1:
        return torch.stack([torch.where(is_indefinite, one, alone), torch.zeros_like(one)]), is_indefinite
    swaps = matrix[1, 0].abs() > a.abs()
    (p, q), (r, s) = torch.where(swaps, matrix.flip(0), matrix).unbind()
    u, v = torch.where(swaps, b.flip(0), b).unbind()
    factor = r / p
    second = (v - factor * u) / (s - factor * q)
    first = (u - q * second) / p
    c, d = matrix[0, 1], matrix[1, 1]
    is_of_both = (a > 0) & (d > 0) & (c * c < (1 - PARALLEL) * a * d)
    alpha = torch.where(is_indefinite, one, torch.where(is_of_both, first, alone))
    return torch.stack([alpha, torch.where(is_of_both, second, torch.zeros_like(one))]), is_indefinite


def is_definite(matrix: Tensor) -> bool:
    """Returns whether a symmetric matrix (2, 2) is positive definite beyond rounding."""
    a, b, c = float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 1])
    return a > 0 and b > 0 and c * c < (1 - PARALLEL) * a * b
