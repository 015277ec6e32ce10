"""How well the first- and second-order Taylor polynomials of a loss foretell it at another point."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .curvature import Curvature


class TaylorEstimates(NamedTuple):
    """What `taylor_estimates` returns, as floats."""

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
    function: Callable[[], Tensor], params: Sequence[Tensor], direction: Sequence[Tensor]
) -> TaylorEstimates:
    """Returns f(w), f(w + d), and the first- and second-order Taylor estimates of the latter.

    f(w + d) is about f(w) + g.d + d.Hd / 2, with the gradient g and the Hessian H at w (Menssen 2019, appendix B).
    g.d and d.Hd are those of `Curvature`, in the parameters' precision; no `.grad` is touched, and the parameters
    are afterwards, bit for bit, what they were. The function is called twice; where it draws random
    numbers, it has to draw the same.

    >>> x = torch.nn.Parameter(torch.tensor([2.0, 3.0]))
    >>> found = taylor_estimates(lambda: 5 + 3 * x.square().sum(), [x], [torch.tensor([1.0, 1.0])])
    >>> found.value, found.first_order, found.second_order, found.actual
    (44.0, 74.0, 80.0, 80.0)

    Args:
        function: f, returns a scalar with its graph at the parameters' present values.
        params: w; those that f does not depend on have a gradient of zero.
        direction: d, a tensor of the same shape for each parameter.

    Raises:
        ValueError: the direction has other shapes than the parameters.
    """
    shapes, others = [tuple(p.shape) for p in params], [tuple(d.shape) for d in direction]
    if shapes != others:
        raise ValueError(f"direction: its shapes are {others}, those of the parameters {shapes}")
    there = Curvature(function, params, along_only=True)
    along = dict(zip(params, direction, strict=True))
    parts = [along[p] for p in there.params]
    slope, curvature = inner(there.gradient, parts).item(), there.along(parts, last=True).item()
    value = there.loss.item()  # type: ignore[union-attr]
    del there
    kept = [p.detach().clone() for p in params]
    try:
        with torch.no_grad():
            for p, d in zip(params, direction, strict=True):
                p.add_(d)
            actual = function().item()
    finally:
        with torch.no_grad():
            for p, k in zip(params, kept, strict=True):
                p.copy_(k)
    return TaylorEstimates(value, slope, curvature, actual)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Returns the inner product of two lists of tensors, a scalar."""
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
