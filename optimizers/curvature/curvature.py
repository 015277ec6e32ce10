"""The curvature of a loss at the current weights: products with a matrix that is never formed."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from ..arguments import check_dense
from ..scalars import Scalar, largest, number
from ..shard import WHOLE, Shard, Sums
from ..vectors import flatten, in_full_precision, unflatten
from .double_backward import BackwardRequest, Quantity
from .double_backward_mode import FastDoubleBackward
from .hessian_product import differentiate, edge_of, sum_of
from .loss import NO_GRAPH, evaluate, gradient_with_graph
from .sampling import sample_at_outputs, trace_at_outputs

KINDS = ("hessian", "gauss_newton")


class Curvature:
    """The gradient of a loss, and products with its curvature matrix C, at the current weights.

    `kind` says which matrix C is: "hessian", the second derivatives; or "gauss_newton", J^T L J with J the derivatives
    of the network's outputs and L those of the loss with respect to them (Schraudolph 2002), positive semi-definite
    for convex losses. Terms of the loss that do not depend on the outputs, as regularizers, enter with their Hessian.
    The outputs are the first argument of the loss functions of torch.nn.functional (`double_backward_mode.LOSSES`)
    that the closure calls.

    In units of a gradient, by counting operations, a product C v costs 2 (Gauss-Newton 4/3), and the quadratic form
    v C v costs 1 (2/3), as it needs no pass back through the layers.

    Args:
        closure: returns the loss, a scalar with its graph, and does not call backward.
        params: tensors that require gradients.
        kind: one of KINDS.
        quadratic_form_only: `matvec` will not be called; `quadratic_form` of the Hessian then costs 1 instead of 2.
        keep_statistics: batch norm does not update its running statistics.
        shard: the part of the batch that this process has; gradient and products are those of the whole batch.

    Attributes:
        loss: the closure's, detached.
        params: the parameters that the loss depends on.
        gradient: of the loss with respect to these.
        sums: what is added here is summed up over the processes by the same reduction as the gradient.
        is_of_outputs: whether the loss depends on them through the outputs alone, one by one.
        at_layers: derivatives of the part of the loss that is of the outputs, at `layers` of `of_loss`.

    Raises:
        ValueError: the closure's loss has no graph; or for Gauss-Newton, it called none of the loss functions.
    """

    def __init__(
        self,
        closure: Callable[[], Tensor],
        params: Sequence[Tensor],
        kind: str = "hessian",
        quadratic_form_only: bool = False,
        keep_statistics: bool = False,
        shard: Shard = WHOLE,
    ):
        loss, mode = evaluate(closure, kind, quadratic_form_only, keep_statistics, shard=shard)
        self._differentiate_loss(loss, mode, params, kind, (), shard)

    @classmethod
    def of_loss(
        cls,
        loss: Tensor,
        mode: FastDoubleBackward,
        params: Sequence[Tensor],
        kind: str,
        layers: Sequence[GradientEdge] = (),
        shard: Shard = WHOLE,
        gradient_of: Mapping[Tensor, Tensor | None] | None = None,
        has_products: bool = True,
    ) -> "Curvature":
        """Returns the curvature of a loss that `evaluate` returned, for the same kind.

        Args:
            loss: as of `evaluate`, with its mode.
            mode: as of `evaluate`.
            params: as for `Curvature`.
            kind: as for `Curvature`.
            layers: places in the graph, as of a layer's outputs, whose derivatives `at_layers` gets on the way.
            shard: as for `Curvature`.
            gradient_of: the gradient by parameter, as that of a larger batch; None: it is the loss's.
            has_products: False: products and quadratic forms will not be asked for, of a Gauss-Newton matrix; the
                gradient then costs what it costs alone.
        """
        self = cls.__new__(cls)
        self._differentiate_loss(loss, mode, params, kind, layers, shard, gradient_of, has_products)
        return self

    def _differentiate_loss(
        self,
        loss: Tensor,
        mode: FastDoubleBackward,
        params: Sequence[Tensor],
        kind: str,
        layers: Sequence[GradientEdge],
        shard: Shard,
        gradient_of: Mapping[Tensor, Tensor | None] | None = None,
        has_products: bool = True,
    ) -> None:
        outputs, copies = [z for z, _ in mode.outputs], [copy for _, copy in mode.outputs]
        with torch.enable_grad():
            of_loss = gradient_with_graph(loss, [*copies, *params])
            at_outputs = [
                (torch.zeros_like(c) if g is None else g.detach()).requires_grad_()
                for c, g in zip(copies, of_loss, strict=False)
            ]
            through: Sequence[Tensor | None] = [None] * (len(params) + len(layers))
            if outputs:
                inputs: list[Any] = [*params, *layers]
                through = grad(
                    outputs, inputs, at_outputs, retain_graph=True, create_graph=has_products, allow_unused=True
                )
        self.loss: Tensor | None = loss.detach()
        self._loss_with_graph = get_gradient_edge(loss)
        self._kind, self._request, self._losses, self.shard = kind, mode.request, mode.losses, shard
        self._loss_scale = 1.0
        self._outputs, self._copies, self._at_outputs = outputs, copies, at_outputs
        self.at_layers = [None if part is None else part.detach() for part in through[len(params) :]]
        self._set_gradients(params, of_loss, through[: len(params)], gradient_of)

    @classmethod
    def of_gradients(cls, params: Sequence[Tensor], loss_scale: float = 1.0, shard: Shard = WHOLE) -> "Curvature":
        """Returns the Hessian where `loss.backward(create_graph=True)` has filled the `.grad` of params.

        Args:
            params: tensors that require gradients.
            loss_scale: the factor of the loss in the gradients and in their graph, which is divided out.
            shard: as for `Curvature`.

        Raises:
            ValueError: no gradient has a graph.
        """
        used = [p for p in params if p.grad is not None]
        if params and not any(p.grad.requires_grad for p in used):  # type: ignore[union-attr]
            raise ValueError(NO_GRAPH)
        self = cls.__new__(cls)
        self.loss, self._kind, self._request, self._loss_scale = None, "hessian", BackwardRequest(), loss_scale
        self._outputs, self._copies, self._at_outputs, self._losses, self.at_layers = [], [], [], [], []
        self.shard = shard
        self._set_gradients(used, [p.grad for p in used], [None] * len(used))
        if loss_scale != 1:
            self.gradient = [g / loss_scale for g in self.gradient]
        return self

    def _set_gradients(
        self,
        params: Sequence[Tensor],
        of_loss: Sequence[Tensor | None],
        through: Sequence[Tensor | None],
        gradient_of: Mapping[Tensor, Tensor | None] | None = None,
    ) -> None:
        """Sets the gradients with respect to the parameters that the loss depends on.

        Args:
            params: those of the constructor.
            of_loss: gradients of the loss with respect to the copies of the outputs, then to params.
            through: gradients of <at_outputs, outputs> with respect to params.
            gradient_of: as of `of_loss`.
        """
        first = len(self._copies)
        direct = of_loss[first:]
        check_dense([*direct, *through])
        used = [i for i in range(len(params)) if direct[i] is not None or through[i] is not None]
        self.params = [params[i] for i in used]
        self.is_of_outputs = [direct[i] is None for i in used]
        self._of_loss = [edge_of(g) for g in (*of_loss[:first], *(direct[i] for i in used))]
        self._through = [edge_of(through[i]) for i in used]
        if gradient_of is None:
            summands = [sum_of(params[i], direct[i], through[i]) for i in used]
        else:
            summands = [sum_of(p, gradient_of[p]) for p in self.params]
        self.sums = Sums(self.shard)
        self._gradient = self.sums.later(summands)

    @property
    def gradient(self) -> list[Tensor]:
        """The gradient with respect to each of `params`."""
        return self._gradient()

    @gradient.setter
    def gradient(self, gradient: list[Tensor]) -> None:
        self._gradient = lambda: gradient

    def factor_of_output(self, on_device: bool = False) -> Callable[[], Scalar]:
        """Returns what returns the factor of one output's loss in that of its sample: 1 / N where this is a mean of N.

        It comes by the reduction of the gradient where that is still to be made. The loss is a mean of those of the
        samples. An output is an entry, or with cross-entropy a position. Of several loss functions, it is the largest
        factor.

        Args:
            on_device: the number stays on the device; for a whole batch.
        """
        values = [call.value for call in self._losses]
        derivatives = grad(self._loss_with_graph, values, retain_graph=True, allow_unused=True)
        factors = []
        for call, derivative, z in zip(self._losses, derivatives, self._copies, strict=True):
            if derivative is None:
                continue  # a value that is no part of the loss, but only shown
            is_softmax = call.function is F.cross_entropy
            samples = 1 if z.dim() == (1 if is_softmax else 0) else len(z)
            outputs = (z.numel() // z.shape[0 if z.dim() == 1 else 1]) if is_softmax else z.numel()
            mean = derivative.mean() if derivative.numel() else torch.zeros_like(derivative.sum())
            factors.append(samples * number(mean, on_device) / (outputs if call.is_mean else 1))
        if self.shard.is_whole:
            return lambda: largest(factors)
        sums = self.sums.later([self.params[0].new_tensor(factors)])
        return lambda: float(sums()[0].max())

    @property
    def like(self) -> list[Tensor]:
        """Tensors of the shapes of vectors."""
        return self.params

    @property
    def cost_of_product(self) -> float:
        """In gradients, by counting operations."""
        return 2.0 if self._kind == "hessian" else 4 / 3

    @property
    def cost_of_quadratic_form(self) -> float:
        """In gradients, by counting operations."""
        if not self._outputs:
            return self.cost_of_product
        return 1.0 if self._kind == "hessian" else 2 / 3

    def block(self, index: int) -> "Curvature":
        """Returns the curvature with respect to one parameter: its block on the diagonal of C."""
        one = copy(self)
        one.params, one._through = [self.params[index]], [self._through[index]]
        first = len(self._copies)
        one._of_loss = [*self._of_loss[:first], self._of_loss[first + index]]
        one.gradient = [self.gradient[index]]
        return one

    def matvec(self, vectors: Sequence[Tensor], free_graph: bool = False) -> list[Tensor]:
        """Returns C v, of the shapes of the parameters.

        Args:
            vectors: v, of the shapes of the parameters.
            free_graph: free the graph on the way, as no product will follow.
        """
        return self.shard.sum(self._matvec(vectors, free_graph))

    def matvec_flat(self, vector: Tensor, free_graph: bool = False) -> Tensor:
        """Returns C v for a vector (n,)."""
        return self.shard.sum([flatten(self._matvec(unflatten(vector, self.params), free_graph))])[0]

    @torch.no_grad()
    def _matvec(self, vectors: Sequence[Tensor], free_graph: bool) -> list[Tensor]:
        """Returns this process's summand of C v."""
        if not self._outputs:
            parts = self._backward("product", self._of_loss, self.params, vectors, free_graph)
            if self._loss_scale != 1:
                parts = [None if part is None else part / self._loss_scale for part in parts]
            return [torch.zeros_like(p) if part is None else part for p, part in zip(self.params, parts, strict=True)]
        at_outputs, direct = self._second_of_loss(self._tangents(vectors, free_graph), vectors, free_graph)
        outputs = [edge_of(z) for z in self._outputs]
        through = differentiate(outputs, self.params, at_outputs, retain_graph=not free_graph)
        return [sum_of(p, a, b) for p, a, b in zip(self.params, direct, through, strict=True)]

    def quadratic_form(self, vectors: Sequence[Tensor], free_graph: bool = False) -> Tensor:
        """Returns v C v, a scalar; arguments as for `matvec`."""
        return self.shard.sum([self._quadratic_form(vectors, free_graph)])[0]

    def quadratic_form_later(self, vectors: Sequence[Tensor], free_graph: bool = False) -> Callable[[], Tensor]:
        """Returns what returns v C v: forms of several blocks that are begun before one is asked for share a reduction.

        Arguments as for `matvec`.
        """
        sums = self.sums.later([self._quadratic_form(vectors, free_graph)])
        return lambda: sums()[0]

    @torch.no_grad()
    def _quadratic_form(self, vectors: Sequence[Tensor], free_graph: bool) -> Tensor:
        """Returns this process's summand of v C v."""
        if not self._outputs:
            return torch.as_tensor(_dot(vectors, self._matvec(vectors, free_graph)))
        of_layers: Tensor | float = 0.0
        if self._kind == "gauss_newton":
            tangents = self._tangents(vectors, free_graph)
        else:
            tangents, of_layers = self._tangents_and_quadratic_form(vectors, free_graph)
        at_outputs, direct = self._second_of_loss(tangents, vectors, free_graph)
        of_loss = _dot(tangents, at_outputs) + _dot(vectors, direct)
        return torch.as_tensor(of_loss + of_layers)

    @torch.no_grad()
    def gram(self, directions: Sequence[Sequence[Tensor]], free_graph: bool = False) -> Tensor:
        """Returns the matrix of v C w (k, k), in float64, over all pairs of k vectors, for a Gauss-Newton matrix C.

        It costs k quadratic forms. Arguments as for `matvec`, of several vectors.
        """
        tangents = [self._tangents(vectors, free_graph=False) for vectors in directions]
        rows = []
        for i, vectors in enumerate(directions):
            frees_graph = free_graph and i == len(directions) - 1
            at_outputs, direct = self._second_of_loss(tangents[i], vectors, frees_graph)
            rows.append(
                [_dot(t, at_outputs) + _dot(v, direct) for t, v in zip(tangents, directions, strict=True)],
            )
        matrix = torch.stack([torch.stack([torch.as_tensor(x).double() for x in row]) for row in rows])
        return self.shard.sum([matrix])[0]

    @torch.no_grad()
    def sample(self, inputs: Sequence[Tensor | GradientEdge], generator: torch.Generator) -> Sequence[Tensor | None]:
        """Returns a sample of J^T r at inputs of the outputs, with J their derivatives, and E[r r^T] = L.

        On several processes it is this one's summand, and r is the part of the r of the whole batch.

        The mean of (J^T r)(J^T r)^T is the Gauss-Newton matrix J^T L J (see `sample_at_outputs`). Entries of r of
        different samples of the batch are independent.

        Args:
            inputs: tensors, or their places in the graph.
            generator: of random numbers, on the device of the outputs.
        """

        functions = [call.function for call in self._losses]
        r = sample_at_outputs(self._copies, functions, self._second_at_outputs, generator, self.shard)
        edges = [get_gradient_edge(z) for z in self._outputs]
        return grad(edges, inputs, r, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]

    @torch.no_grad()
    def trace_later(self, on_device: bool = False) -> Callable[[], Scalar]:
        """Returns what returns the trace of L, the loss's second derivatives with respect to the outputs.

        It comes by the reduction of the gradient where that is still to be made.

        Args:
            on_device: the number stays on the device.
        """
        functions = [call.function for call in self._losses]
        trace = trace_at_outputs(self._copies, functions, self._second_at_outputs)
        sums = self.sums.later([trace.to(self.params[0].dtype)])
        return lambda: number(sums()[0], on_device)

    def _second_at_outputs(self, vectors: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Returns L v at the outputs."""
        return self._second_of_loss(vectors, [None] * len(self.params), free_graph=False)[0]

    def _tangents(self, vectors: Sequence[Tensor], free_graph: bool) -> Sequence[Tensor | None]:
        """Returns the derivatives J v of the outputs along v."""
        return self._backward("tangent", self._through, self._at_outputs, vectors, free_graph)

    def _tangents_and_quadratic_form(
        self, vectors: Sequence[Tensor], free_graph: bool
    ) -> tuple[Sequence[Tensor | None], Tensor | float]:
        """Returns J v, and v M v with M the Hessian of <g, outputs>, g the loss's derivatives at the outputs."""
        self._request.quadratic_form = 0.0
        inputs = [*self._at_outputs, *self.params]
        parts = self._backward("quadratic_form", self._through, inputs, vectors, free_graph)
        first = len(self._copies)
        of_other_layers = _dot(vectors, parts[first:])  # those that autograd differentiates
        return parts[:first], of_other_layers + self._request.quadratic_form

    def _second_of_loss(
        self, tangents: Sequence[Tensor | None], vectors: Sequence[Tensor | None], free_graph: bool
    ) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None]]:
        """Returns the loss's second derivatives along (tangents, vectors), at the outputs and at the weights."""
        inputs = [*self._copies, *self.params]
        parts = self._backward("product", self._of_loss, inputs, [*tangents, *vectors], free_graph)
        return parts[: len(self._copies)], parts[len(self._copies) :]

    def _backward(
        self,
        quantity: Quantity,
        gradients: Sequence[GradientEdge | None],
        inputs: Sequence[Tensor],
        vectors: Sequence[Tensor | None],
        free_graph: bool,
    ) -> Sequence[Tensor | None]:
        """Makes a backward pass through gradients in which the layers compute a quantity."""
        self._request.quantity = quantity
        return differentiate(gradients, inputs, vectors, retain_graph=not free_graph)


def _dot(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor | float:
    """Returns the inner product; None is 0."""
    pairs = [(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return sum((torch.dot(in_full_precision(x), in_full_precision(y)) for x, y in pairs), start=0.0)
