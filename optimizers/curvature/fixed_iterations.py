"""Conjugate gradients whose number of products is fixed, and that read no number: a CUDA graph can hold them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..scalars import add_scaled
from ..vectors import in_full_precision


class FixedInfo(NamedTuple):
    """How conjugate gradients ended, as numbers () on the device; see `CGInfo`.

    Attributes:
        iterations: their number.
        residual: ||b - A x||_2 at the end.
        is_negative: whether a direction d had d A d <= 0.
        products: how many of the products entered the result.
        curvature: d A d of the first of these, 0 where there was none.
    """

    iterations: Tensor
    residual: Tensor
    is_negative: Tensor
    products: Tensor
    curvature: Tensor


@torch.no_grad()
def fixed_conjugate_gradient(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    max_iter: int,
    tol: float,
    relative: bool,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, FixedInfo]:
    """Does the same as `conjugate_gradient_flat` from x0 = 0, with `max_iter` products always.

    Where the iterations would have ended, their result stays as it was, by `torch.where`. Arguments are as there.
    """
    dtype, b = b.dtype, in_full_precision(b)
    precondition = preconditioner or (lambda r: r)
    x, r = torch.zeros_like(b), b.clone()
    rr = squares = r.dot(r).double()
    z = precondition(r)
    rz = r.dot(z).double()
    d = first = z.clone()
    limit = tol * squares.sqrt() if relative else tol
    is_on = rr.sqrt() > limit
    iterations, products = torch.zeros_like(rr), torch.zeros_like(rr)
    curvature = torch.zeros_like(rr)
    is_negative = torch.zeros_like(is_on)
    for k in range(max_iter):
        Ad = in_full_precision(product(d.to(dtype)))
        dAd = d.dot(Ad).double()
        products = products + is_on
        is_positive = (dAd > 0) & (dAd < math.inf)
        ends, goes_on = is_on & ~is_positive, is_on & is_positive
        is_negative = is_negative | (is_on & (dAd <= 0))
        alpha = rz / dAd
        x_next, r_next = add_scaled(x, d, alpha, torch.empty_like(x)), add_scaled(r, Ad, -alpha, torch.empty_like(r))
        if k == 0:  # x is M^-1 b where it ends here
            curvature = torch.where(is_on, dAd, curvature)
            x, r = torch.where(ends, first, x), torch.where(ends, b - Ad, r)
            rr = torch.where(ends, r.dot(r).double(), rr)
        x, r = torch.where(goes_on, x_next, x), torch.where(goes_on, r_next, r)
        previous = rz
        rr = torch.where(goes_on, r.dot(r).double(), rr)
        z = precondition(r)
        rz = torch.where(goes_on, r.dot(z).double(), rz)
        d = torch.where(goes_on, add_scaled(z, d, rz / previous, torch.empty_like(z)), d)
        iterations = iterations + goes_on
        is_on = goes_on & (rr.sqrt() > limit)
    return x.to(dtype), FixedInfo(iterations, rr.sqrt(), is_negative, products, curvature)
