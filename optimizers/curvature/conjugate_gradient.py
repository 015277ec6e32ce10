"""The method of conjugate gradients."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..arguments import check_shapes
from ..scalars import Scalar, add_scaled, number, root
from ..vectors import flatten, in_full_precision, unflatten


class CGInfo(NamedTuple):
    """How conjugate gradients ended.

    Attributes:
        iterations: their number.
        residual: ||b - A x||_2 at the end.
        reason: "converged", "max_iter", "negative_curvature" (d A d <= 0 along a direction d) or "not_finite".
        products: the number of products with A.
    """

    iterations: int
    residual: float
    reason: str
    products: int


@torch.no_grad()
def conjugate_gradient(
    product: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    b: Sequence[Tensor],
    max_iter: int = 20,
    tol: float = 1e-5,
    relative: bool = False,
    x0: Sequence[Tensor] | None = None,
    preconditioner: Callable[[Sequence[Tensor]], Sequence[Tensor]] | None = None,
) -> tuple[list[Tensor], CGInfo]:
    """Solves A x = b for a symmetric positive definite A (Hestenes and Stiefel 1952; Zorca 2020, algorithm 3).

    The residual is tested before each iteration. Where a direction d has d A d <= 0, A is not positive definite:
    the current x is returned, and at the first iteration b (steepest descent, where b is -gradient), or M^-1 b.

    >>> A = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    >>> x, info = conjugate_gradient(lambda v: [A @ v[0]], [torch.tensor([1.0, 2.0])])
    >>> [round(value, 4) for value in x[0].tolist()], info.iterations, info.reason
    ([0.0909, 0.6364], 2, 'converged')

    Args:
        product: returns A v for a list of tensors v.
        b: right-hand side, a list of tensors of one dtype and device.
        max_iter: the largest number of iterations.
        tol: stop where ||b - A x||_2 <= tol, or tol * ||b||_2 if `relative`.
        relative: whether tol is relative to ||b||_2.
        x0: where to start; None is 0, and saves a product.
        preconditioner: returns M^-1 v for a list of tensors v, with M symmetric positive definite and close to A; the
            iterations are then those on M^(-1/2) A M^(-1/2) (Golub and Van Loan 2013, section 11.5.2). None: M = I.

    Returns:
        x, of the shapes of b, and a CGInfo.

    Raises:
        ValueError: `max_iter` is negative, or product or x0 have other shapes than b.
    """
    if not max_iter >= 0:
        raise ValueError(f"max_iter={max_iter}: must be >= 0")

    def product_flat(v: Tensor) -> Tensor:
        parts = list(product(unflatten(v, b)))
        check_shapes("product", parts, b)
        return flatten(parts)

    b = list(b)
    if x0 is not None:
        check_shapes("x0", x0, b)
    x, info = conjugate_gradient_flat(
        product_flat,
        flatten(b),
        max_iter,
        tol,
        relative,
        None if x0 is None else flatten(x0),
        None if preconditioner is None else lambda v: flatten(preconditioner(unflatten(v, b))),
    )
    return unflatten(x, b), info


def conjugate_gradient_in_metric(
    product: Callable[[Tensor, Tensor, Tensor], Callable[[], None]],
    metric: Callable[[Tensor, Tensor], Callable[[], None]],
    b: Tensor,
    max_iter: int,
    tol: float,
    relative: bool,
    unit: float = 1.0,
) -> tuple[Tensor, Tensor, CGInfo]:
    """Solves A x = b from x = 0 for an A that is symmetric and positive definite in an inner product <u, M v>.

    Where A v is cheap once M v is there, an iteration costs one product with M. A direction of negative curvature ends
    the iterations as in `conjugate_gradient`. M may be singular; residuals below the root of the rounding error, in
    units of b, are then not known.

    Args:
        product: gets d, M d and A d, (n,) each, and returns what writes A d / unit whenever d and M d have changed.
        metric: gets r and M r, and returns what writes M r whenever r has changed.
        b: (n,); it is overwritten.
        max_iter: the largest number of iterations.
        tol: as in `conjugate_gradient`, with norms in the inner product.
        relative: likewise.
        unit: a factor of A that `product` leaves out.

    Returns:
        x, M x and a CGInfo.
    """
    r, Mr = b, torch.empty_like(b)
    measure = metric(r, Mr)

    def square() -> float:
        """Writes M r, and returns <r, M r>: not below 0 by rounding; nan stays."""
        measure()
        return max(float(r.dot(Mr)), 0.0)

    rr = square()
    limit = tol * math.sqrt(rr) if relative else tol
    x, d, Md, Ad = torch.zeros_like(b), r.clone(), Mr.clone(), torch.empty_like(b)
    multiply = product(d, Md, Ad)
    iterations = products = 0
    while math.sqrt(rr) > limit and iterations < max_iter:
        multiply()
        products += 1
        dAd = unit * float(Md.dot(Ad))
        is_positive = 0 < dAd < math.inf
        if is_positive or iterations == 0:
            alpha = rr / dAd if is_positive else 1.0
            x.add_(d, alpha=alpha)
            r.sub_(Ad, alpha=alpha * unit)
            previous, rr = rr, square()
        if not is_positive:
            reason = "negative_curvature" if dAd <= 0 else "not_finite"
            break
        torch.add(r, d, alpha=rr / previous, out=d)
        torch.add(Mr, Md, alpha=rr / previous, out=Md)
        iterations += 1
    else:
        reason = _reason(rr, limit)
    r.copy_(x)
    measure()
    return x, Mr, CGInfo(iterations, math.sqrt(rr), reason, products)


def conjugate_gradient_flat(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    max_iter: int,
    tol: float,
    relative: bool,
    x0: Tensor | None,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
    on_device: bool = False,
) -> tuple[Tensor, CGInfo]:
    """Does the same as `conjugate_gradient` with vectors (n,); in float32 where b is in half precision.

    With `on_device`, it computes with numbers of the device, as `fixed_conjugate_gradient` does: read is only whether
    an iteration follows.
    """
    dtype, b = b.dtype, in_full_precision(b)

    def full_product(v: Tensor) -> Tensor:
        return in_full_precision(product(v.to(dtype)))

    def preconditioned(r: Tensor, rr: Scalar) -> tuple[Tensor, Scalar]:
        """Returns z = M^-1 r, and r.z."""
        if preconditioner is None:
            return r, rr
        z = preconditioner(r)
        return z, number(r.dot(z), on_device)

    x = torch.zeros_like(b) if x0 is None else in_full_precision(x0.clone())
    r = b.clone() if x0 is None else b - full_product(x)
    rr = number(r.dot(r), on_device)
    z, rz = preconditioned(r, rr)
    d = z.clone()
    limit = tol * root(number(b.dot(b), on_device)) if relative else tol
    iterations, products = 0, int(x0 is not None)
    while root(rr) > limit and iterations < max_iter:
        Ad = full_product(d)
        products += 1
        dAd = number(d.dot(Ad), on_device)
        if not 0 < dAd < math.inf:
            reason = "negative_curvature" if dAd <= 0 else "not_finite"
            if iterations == 0:
                x = b.clone() if preconditioner is None else preconditioner(b)
                r = b - (Ad if x0 is None else full_product(x))
                products += x0 is not None
                rr = number(r.dot(r), on_device)
            break
        alpha = rz / dAd
        add_scaled(x, d, alpha)
        add_scaled(r, Ad, -alpha)
        previous, rr = rz, number(r.dot(r), on_device)
        z, rz = preconditioned(r, rr)
        add_scaled(z, d, rz / previous, out=d)
        iterations += 1
    else:
        reason = _reason(rr, limit)
    return x.to(dtype), CGInfo(iterations, root(rr), reason, products)  # type: ignore[arg-type]


def _reason(rr: Scalar, limit: Scalar) -> str:
    """Returns why iterations ended that were not broken off."""
    return "not_finite" if math.isnan(rr) else "converged" if root(rr) <= limit else "max_iter"
