"""The method of conjugate gradients."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .vectors import dot

Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class CGInfo(NamedTuple):
    """How a solution was reached.

    `iterations` made; `residual`, the norm ||b - A x||_2 that is left; `reason` why it stopped: "converged",
    "max_iter", "negative_curvature" (d A d <= 0 along a direction d) or "not_finite"; `products` with A.
    """

    iterations: int
    residual: float
    reason: str
    products: int


@torch.no_grad()
def conjugate_gradient(
    product: Product,
    b: Sequence[Tensor],
    max_iter: int = 20,
    tol: float = 1e-5,
    relative: bool = False,
    x0: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor], CGInfo]:
    """Solve A x = b for a symmetric positive definite A (Hestenes and Stiefel 1952; Zorca 2020, algorithm 3).

    The residual is tested before each iteration. Where a direction d has d A d <= 0, A is not positive definite:
    the x that was reached is returned, and where that is still the start of 0, d itself, which is b.

    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x, info = conjugate_gradient(lambda v: [A @ v[0]], [torch.tensor([1.0, 2.0])])
    >>> [round(value, 4) for value in x[0].tolist()], info.iterations, info.reason
    ([0.0909, 0.6364], 2, 'converged')

    Args:
        product: returns A v for a list of tensors v.
        b: right-hand side, a list of tensors.
        max_iter: most iterations.
        tol: stop where ||b - A x||_2 <= tol, or tol * ||b||_2 if `relative`.
        relative: whether tol is relative to ||b||_2.
        x0: where to start; None is 0, and saves a product.

    Returns:
        x, of the shapes of b, and a CGInfo.
    """
    r = [part.clone() for part in b]
    if x0 is None:
        x = [torch.zeros_like(part) for part in b]
    else:
        x = [part.clone() for part in x0]
        torch._foreach_sub_(r, list(product(x)))
    d = [part.clone() for part in r]
    rr = float(dot(r, r))
    limit = tol * float(dot(b, b)) ** 0.5 if relative else tol
    products = int(x0 is not None)
    iterations = 0
    while rr**0.5 > limit and iterations < max_iter:
        Ad = list(product(d))
        products += 1
        dAd = float(dot(d, Ad))
        if not dAd > 0:
            reason = "not_finite" if dAd - dAd != 0 else "negative_curvature"
            if iterations == 0 and x0 is None:
                x = d
                r = [bi - ai for bi, ai in zip(b, Ad, strict=True)]
                rr = float(dot(r, r))
            break
        alpha = rr / dAd
        torch._foreach_add_(x, d, alpha=alpha)
        torch._foreach_sub_(r, Ad, alpha=alpha)
        previous, rr = rr, float(dot(r, r))
        torch._foreach_mul_(d, rr / previous)
        torch._foreach_add_(d, r)
        iterations += 1
    else:
        reason = "converged" if rr**0.5 <= limit else "max_iter"
    return x, CGInfo(iterations, rr**0.5, reason, products)
