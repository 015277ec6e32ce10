"""The curvature of a loss at the current weights: products with a matrix that is never formed."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..vectors import flatten, unflatten
from .double_backward import Sweep
from .double_backward_mode import Trace

KINDS = ("hessian", "gauss_newton")


def hessian_vector_product(
    loss: Tensor, params: Sequence[Tensor], vectors: Sequence[Tensor], retain_graph: bool = True
) -> list[Tensor]:
    """Returns H v, with H the second derivatives of a loss with respect to params (Pearlmutter 1994, exact).

    The gradient is differentiated along v (Zorca 2020, eq. 2.15). No `.grad` is touched.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_vector_product((x**3).sum(), [x], [torch.tensor([1.0, 1.0])])
    [tensor([ 6., 12.])]

    Args:
        loss: a scalar with its graph; computed inside `Trace()` the product is faster.
        params: tensors that require gradients; where the loss does not depend on one, its part is 0.
        vectors: v, of the shapes of params.
        retain_graph: keep the graph of the loss, for another product.
    """
    gradients = [_edge(g) for g in grad(loss, params, create_graph=True, allow_unused=True)]
    found = _differentiated(gradients, params, vectors, retain_graph)
    return [_sum(p, f) for p, f in zip(params, found, strict=True)]


def _differentiated(
    gradients: Sequence[GradientEdge | None],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor | None],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """Returns the derivatives of <gradients, vectors> with respect to inputs; None is 0."""
    pairs = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and v is not None]
    if not pairs:
        return [None] * len(inputs)
    outputs, weights = zip(*pairs, strict=True)
    return grad(outputs, inputs, weights, retain_graph=retain_graph, allow_unused=True)


def evaluated(
    closure: Callable[[], Tensor],
    kind: str,
    along_only: bool = False,
    keep_statistics: bool = False,
    beside: AbstractContextManager | None = None,
) -> tuple[Tensor, Trace]:
    """Returns a closure's loss, and the `Trace` that it was computed in; `beside` is a further context inside that.

    Raises:
        ValueError: the loss has no graph; or for Gauss-Newton, the closure called none of the loss functions.
    """
    short = along_only and kind == "hessian"
    trace = Trace(split=short or kind == "gauss_newton", keep_statistics=keep_statistics, along=short)
    with torch.enable_grad(), trace, beside or nullcontext():
        loss = closure()
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise ValueError("the closure must return the loss with its graph: a scalar that depends on the weights")
    if kind == "gauss_newton" and not trace.outputs:
        raise ValueError(
            "curvature=gauss_newton: the closure must call a loss function of torch.nn.functional"
            " (cross_entropy, mse_loss, ...) on the network's outputs"
        )
    return loss, trace


class Curvature:
    """The gradient of a loss, and its curvature in any direction, at the weights as they are.

    `kind` is the matrix C: "hessian", the second derivatives; or "gauss_newton", J^T L J with J the derivatives of
    the network's outputs and L those of the loss with respect to them (Schraudolph 2002), positive semi-definite
    for convex losses. What the loss says of the weights beside the outputs, as a regularizer, counts in full. The
    outputs are what a loss function of torch.nn.functional (`trace.LOSSES`) is given in the closure.

    In units of a gradient, by counting operations, a product costs 2 (Gauss-Newton 4/3) and the curvature v C v
    along a direction 1 (2/3): for that, no layer has to be gone through backwards.

    Args:
        closure: returns the loss, a scalar with its graph, and does not call backward.
        params: tensors that require gradients.
        kind: one of KINDS.
        along_only: `product` will not be called; then `along` of the Hessian takes the short way.
        keep_statistics: batch norm leaves its running statistics as they are.

    Attributes:
        loss: as the closure returned it.
        params: those of the parameters that the loss depends on; the others have no part in this.
        gradient: of the loss with respect to them.

    Raises:
        ValueError: the closure's loss has no graph; or for Gauss-Newton, it called none of the loss functions.
    """

    def __init__(
        self,
        closure: Callable[[], Tensor],
        params: Sequence[Tensor],
        kind: str = "hessian",
        along_only: bool = False,
        keep_statistics: bool = False,
    ):
        self._differentiate(*evaluated(closure, kind, along_only, keep_statistics), params, kind)

    @classmethod
    def of_loss(cls, loss: Tensor, trace: Trace, params: Sequence[Tensor], kind: str) -> "Curvature":
        """Returns the curvature of what `evaluated` returned, for the same kind."""
        self = cls.__new__(cls)
        self._differentiate(loss, trace, params, kind)
        return self

    def _differentiate(self, loss: Tensor, trace: Trace, params: Sequence[Tensor], kind: str) -> None:
        outputs, copies = [z for z, _ in trace.outputs], [leaf for _, leaf in trace.outputs]
        with torch.enable_grad():
            found = gradient_with_graph(loss, [*copies, *params])
            at_outputs = [
                (torch.zeros_like(c) if f is None else f.detach()).requires_grad_()
                for c, f in zip(copies, found, strict=False)
            ]
            through: Sequence[Tensor | None] = [None] * len(params)
            if outputs:
                through = grad(outputs, params, at_outputs, create_graph=True, allow_unused=True)
        self.loss: Tensor | None = loss.detach()
        self._kind, self._sweep = kind, trace.sweep
        self._outputs, self._copies, self._at_outputs = outputs, copies, at_outputs
        self._set(params, found, through)

    @classmethod
    def of_gradients(cls, params: Sequence[Tensor]) -> "Curvature":
        """Returns the Hessian where `loss.backward(create_graph=True)` has filled the `.grad` of params.

        Raises:
            ValueError: no gradient has a graph.
        """
        there = [p for p in params if p.grad is not None]
        if not any(p.grad.requires_grad for p in there):  # type: ignore[union-attr]
            raise ValueError("give a closure that returns the loss, or call loss.backward(create_graph=True) before")
        self = cls.__new__(cls)
        self.loss, self._kind, self._sweep = None, "hessian", Sweep()
        self._outputs, self._copies, self._at_outputs = [], [], []
        self._set(there, [p.grad for p in there], [None] * len(there))
        return self

    def _set(
        self, params: Sequence[Tensor], of_loss: Sequence[Tensor | None], through: Sequence[Tensor | None]
    ) -> None:
        """Keeps what is of parameters that the loss depends on."""
        first = len(self._copies)
        direct = of_loss[first:]
        used = [i for i in range(len(params)) if direct[i] is not None or through[i] is not None]
        self.params = [params[i] for i in used]
        # gradients of the loss as a function of outputs and weights, and of <at_outputs, outputs>
        self._of_loss = [_edge(g) for g in (*of_loss[:first], *(direct[i] for i in used))]
        self._through = [_edge(through[i]) for i in used]
        self.gradient = [_sum(params[i], direct[i], through[i]) for i in used]

    @property
    def like(self) -> list[Tensor]:
        """The shapes of vectors."""
        return self.params

    @property
    def cost_of_product(self) -> float:
        """In gradients, by counting operations."""
        return 2.0 if self._kind == "hessian" else 4 / 3

    @property
    def cost_of_along(self) -> float:
        """In gradients, by counting operations."""
        if not self._outputs:
            return self.cost_of_product
        return 1.0 if self._kind == "hessian" else 2 / 3

    def block(self, index: int) -> "Curvature":
        """Returns the curvature as one parameter sees it: the block of C on the diagonal."""
        one = copy(self)
        one.params, one._through = [self.params[index]], [self._through[index]]
        first = len(self._copies)
        one._of_loss = [*self._of_loss[:first], self._of_loss[first + index]]
        one.gradient = [self.gradient[index]]
        return one

    @torch.no_grad()
    def product(self, vectors: Sequence[Tensor], last: bool = False) -> list[Tensor]:
        """Returns C v, of the shapes of the parameters; the `last` one lets go of the graph as it goes."""
        if not self._outputs:
            found = self._swept("product", self._of_loss, self.params, vectors, last)
            return [torch.zeros_like(p) if f is None else f for p, f in zip(self.params, found, strict=True)]
        at_outputs, direct = self._second_of_loss(self._tangents(vectors, last), vectors, last)
        through = _differentiated([_edge(z) for z in self._outputs], self.params, at_outputs, retain_graph=not last)
        return [_sum(p, a, b) for p, a, b in zip(self.params, direct, through, strict=True)]

    def times(self, vector: Tensor, last: bool = False) -> Tensor:
        """Returns C v for a vector of one dimension."""
        return flatten(self.product(unflatten(vector, self.params), last))

    @torch.no_grad()
    def along(self, vectors: Sequence[Tensor], last: bool = False) -> Tensor:
        """Returns v C v, a scalar; `last` as for `product`."""
        if not self._outputs:
            return torch.as_tensor(_dot(vectors, self.product(vectors, last)))
        rest: Tensor | float = 0.0
        if self._kind == "gauss_newton":
            tangents = self._tangents(vectors, last)
        else:
            tangents, rest = self._tangents_and_curvature(vectors, last)
        at_outputs, direct = self._second_of_loss(tangents, vectors, last)
        total = _dot(tangents, at_outputs) + _dot(vectors, direct)
        return torch.as_tensor(total + rest)

    def _tangents(self, vectors: Sequence[Tensor], last: bool) -> Sequence[Tensor | None]:
        """Returns the derivatives J v of the outputs along v."""
        return self._swept("tangent", self._through, self._at_outputs, vectors, last)

    def _tangents_and_curvature(
        self, vectors: Sequence[Tensor], last: bool
    ) -> tuple[Sequence[Tensor | None], Tensor | float]:
        """Returns J v, and the curvature along v of <g, outputs>, with g the loss's derivatives there."""
        self._sweep.curvature = 0.0
        found = self._swept("curvature", self._through, [*self._at_outputs, *self.params], vectors, last)
        rest = _dot(vectors, found[len(self._copies) :])  # of layers that the trace does not know
        return found[: len(self._copies)], rest + self._sweep.curvature

    def _second_of_loss(
        self, tangents: Sequence[Tensor | None], vectors: Sequence[Tensor], last: bool
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Returns the loss's second derivatives along (tangents, vectors), at the outputs and at the weights."""
        found = self._swept("product", self._of_loss, [*self._copies, *self.params], [*tangents, *vectors], last)
        return found[: len(self._copies)], found[len(self._copies) :]

    def _swept(
        self,
        sweep: str,
        gradients: Sequence[GradientEdge | None],
        inputs: Sequence[Tensor],
        vectors: Sequence[Tensor | None],
        last: bool,
    ) -> Sequence[Tensor | None]:
        self._sweep.wanted = sweep
        return _differentiated(gradients, inputs, vectors, retain_graph=not last)


def _edge(tensor: Tensor | None) -> GradientEdge | None:
    """Returns a tensor's place in the graph, which does not keep its values."""
    return get_gradient_edge(tensor) if tensor is not None and tensor.requires_grad else None


def gradient_with_graph(loss: Tensor, inputs: Sequence[Tensor | GradientEdge]) -> Sequence[Tensor | None]:
    """Returns the gradient, None where the loss does not depend on an input; ValueError after `backward`."""
    try:
        return grad(loss, inputs, create_graph=True, allow_unused=True)  # type: ignore[arg-type]
    except RuntimeError as error:
        if "second time" in str(error):
            raise ValueError("the closure must return the loss without calling backward") from error
        raise


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor | float:
    """Returns the inner product; None is 0."""
    given = [(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return sum((torch.dot(x, y) for x, y in given), start=0.0)


def _sum(param: Tensor, *parts: Tensor | None) -> Tensor:
    """Returns the sum of the parts that are there, detached, or zeros like the parameter."""
    given = [part.detach() for part in parts if part is not None]
    if not given:
        return torch.zeros_like(param)
    return given[0] if len(given) == 1 else given[0] + given[1]
