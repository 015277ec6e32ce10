"""How well the first- and second-order Taylor polynomials of a loss predict it at another point."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..shard import WHOLE, Shard
from .curvature import Curvature


class TaylorEstimates(NamedTuple):
    """The terms of the Taylor polynomials at w, and the value at w + d that they estimate."""

    value: float  # f(w)
    slope: float  # g.d
    curvature: float  # d.Hd
    actual: float  # f(w + d)

    @property
    def first_order(self) -> float:
        """f(w) + g.d."""
        return self.value + self.slope

    @property
    def second_order(self) -> float:
        """f(w) + g.d + d.Hd / 2."""
        return self.first_order + self.curvature / 2

    @property
    def first_order_error(self) -> float:
        """The actual value less the first-order estimate."""
        return self.actual - self.first_order

    @property
    def second_order_error(self) -> float:
        """The actual value less the second-order estimate."""
        return self.actual - self.second_order


def taylor_estimates(
    function: Callable[[], Tensor], params: Sequence[Tensor], direction: Sequence[Tensor], shard: Shard = WHOLE
) -> TaylorEstimates:
    """Returns f(w), f(w + d), and the first- and second-order Taylor estimates of the latter.

    f(w + d) is about f(w) + g.d + d.Hd / 2, with the gradient g and the Hessian H at w (Menssen 2019, appendix B).
    g.d and d.Hd are those of `Curvature`, in the parameters' precision; no `.grad` is touched, and the parameters
    are restored bit for bit. The function is called twice; where it draws random numbers, it has to draw the same.

    >>> x = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    >>> estimates = taylor_estimates(lambda: 5 + 3 * x.square().sum(), [x], [torch.tensor([1.0, 1.0])])
    >>> estimates.value, estimates.first_order, estimates.second_order, estimates.actual
    (44.0, 74.0, 80.0, 80.0)

    Args:
        function: f; returns a scalar with its graph, at the current parameters.
        params: w; those that f does not depend on have a gradient of zero.
        direction: d, a tensor of the same shape for each parameter.
        shard: as for `Curvature`.

    Raises:
        ValueError: the shapes of the direction and of the parameters differ.
    """
    shapes, expected = [tuple(d.shape) for d in direction], [tuple(p.shape) for p in params]
    if shapes != expected:
        raise ValueError(f"direction: its shapes are {shapes}, those of the parameters {expected}")
    at_w = Curvature(function, params, quadratic_form_only=True, shard=shard)
    direction_of = dict(zip(params, direction, strict=True))
    d_used = [direction_of[p] for p in at_w.params]
    slope = inner(at_w.gradient, d_used).item()
    curvature = at_w.quadratic_form(d_used, free_graph=True).item()
    value = at_w.loss.item()  # type: ignore[union-attr]
    del at_w
    originals = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p.add_(d)
            actual = function().item()
    finally:
        with torch.no_grad():
            for p, original in zip(params, originals, strict=True):
                p.copy_(original)
    return TaylorEstimates(value, slope, curvature, actual)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Returns the inner product of two lists of tensors, a scalar."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
