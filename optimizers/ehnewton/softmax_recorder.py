"""Finding linear softmax classifiers in a loss, while a closure computes it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..curvature.curvature import gradient_with_graph
from ..regularizers.l2 import sum_of_squares

DTYPES = (torch.float32, torch.float64)


class Classifier(NamedTuple):
    """A classifier with logits Z = X W^T + b (n, C), and the part of the loss that W and b are in.

    `gradient` is dL/dZ, `scale` the factor of each row's cross-entropy in the loss, a number or (n, 1), `decay`
    that of sum W^2 / 2, and `squares` sum W^2 where `decay` is not 0.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    trains_bias: bool
    logits: Tensor
    gradient: Tensor
    scale: Tensor | float
    decay: float
    squares: float


class _Layer(NamedTuple):
    logits: Tensor
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None


class _Loss(NamedTuple):
    edge: GradientEdge
    logits: Tensor
    targets: Tensor
    ignore_index: int
    is_mean: bool
    label_smoothing: float


class _Squares(NamedTuple):
    edge: GradientEdge
    value: Tensor
    weight: Tensor


def may_be_classifiers(params: Sequence[Tensor]) -> bool:
    """Returns whether the shapes are those of linear classifiers: matrices, and biases that fit one of them."""
    outputs = {p.shape[0] for p in params if p.dim() == 2}
    return bool(outputs) and all(p.dim() == 2 or (p.dim() == 1 and p.shape[0] in outputs) for p in params)


class Recorder(TorchFunctionMode):
    """A context in which the calls are noted that a linear softmax classifier consists of.

    Args:
        params: those that are trained.
    """

    def __init__(self, params: Sequence[Tensor]):
        super().__init__()
        self._params = set(params)
        self._layers: list[_Layer] = []
        self._losses: list[_Loss] = []
        self._squares: list[_Squares] = []
        self._versions: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        note = NOTES.get(func)
        if note is not None:
            with torch._C.DisableTorchFunction():  # or each look at a tensor is shown to the modes outside
                if result.requires_grad:
                    note(self, result, *args, **(kwargs or {}))
        return result

    def _see(self, *tensors: Tensor | None) -> None:
        """Remembers tensors as they are: who changes one in place afterwards means another loss."""
        self._versions += [(t, t._version) for t in tensors if t is not None]

    def _linear(self, logits: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> None:
        given = [t for t in (logits, input, weight, bias) if t is not None]
        if (
            weight in self._params
            and input.dim() == 2
            and not input.requires_grad
            and (bias is None or bias.shape == logits.shape[1:])
            and all(t.dtype == weight.dtype and t.dtype in DTYPES for t in given)
        ):
            self._layers.append(_Layer(logits, input, weight, bias))
            self._see(*given)

    def _cross_entropy(
        self,
        loss: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        plain = weight is None and size_average is None and reduce is None and reduction in ("mean", "sum")
        if plain and input.dim() == 2 and not target.requires_grad and loss.dtype == input.dtype:
            edge, is_mean = get_gradient_edge(loss), reduction == "mean"
            self._losses.append(_Loss(edge, input, target, ignore_index, is_mean, label_smoothing))
            self._see(input, target)

    def _sum_of_squares(self, value: Tensor, param: Tensor) -> None:
        self._squares.append(_Squares(get_gradient_edge(value), value.detach(), param))
        self._see(param)

    def classifiers(self, loss: Tensor, copies: Sequence[tuple[Tensor, Tensor]]) -> list[Classifier] | None:
        """Returns the classifiers that a loss is of, None where the parameters are in it in any other way.

        Args:
            loss: what the closure returned.
            copies: pairs (logits, copy) where a `Trace` gave the loss functions copies.

        Raises:
            ValueError: the closure called backward.
        """
        if any(t._version != version or t._backward_hooks for t, version in self._versions):
            return None  # changed in place, or a hook changes gradients
        ends: list[_Loss | _Squares] = [*self._losses, *self._squares]
        met = _ends_met(loss, {end.edge.node for end in ends}, self._params)
        losses = [end for end in self._losses if end.edge.node in met]
        squares = [end for end in self._squares if end.edge.node in met]
        by_logits = {id(layer.logits): layer for layer in self._layers}
        layers = [by_logits[id(one.logits)] for one in losses if id(one.logits) in by_logits]
        trained = [p for layer in layers for p in (layer.weight, layer.bias) if p in self._params]
        if not losses or len(layers) < len(losses) or len(set(trained)) < len(trained):
            return None
        if not {one.weight for one in squares} <= {layer.weight for layer in layers}:
            return None
        if any(not one.targets.is_floating_point() and bool((one.targets == one.ignore_index).any()) for one in losses):
            return None
        given = {id(logits): copy for logits, copy in copies}
        logits = [given.get(id(one.logits), one.logits) for one in losses]
        edges = [*(one.edge for one in losses), *(one.edge for one in squares)]
        with torch.enable_grad():
            found = gradient_with_graph(loss, [*edges, *logits])
        if any(factor is None or factor.requires_grad for factor in found[: len(edges)]):
            return None  # not linear in them
        factors = torch.stack([f.detach() for f in found[: len(edges)]]).tolist()  # type: ignore[union-attr]
        decays = list(zip(squares, factors[len(losses) :], strict=True))
        return [
            Classifier(
                layer.inputs,
                layer.weight,
                layer.bias,
                layer.bias in self._params,
                layer.logits.detach(),
                gradient.detach(),  # type: ignore[union-attr]
                _scale(one, factor),
                sum(2 * factor for end, factor in decays if end.weight is layer.weight),
                next((float(end.value) for end in squares if end.weight is layer.weight), 0.0),
            )
            for layer, one, factor, gradient in zip(
                layers, losses, factors[: len(losses)], found[len(edges) :], strict=True
            )
        ]


def _ends_met(loss: Tensor, ends: set[Node], params: set[Tensor]) -> set[Node]:
    """Returns which nodes of the graph the loss depends on directly; none where it so depends on a parameter."""
    met, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in ends:
            met.add(node)
        elif isinstance(leaf := getattr(node, "variable", None), Tensor) and leaf in params:
            return set()
        else:
            waiting += [after for after, _ in node.next_functions]
    return met


def _scale(loss: _Loss, factor: float) -> Tensor | float:
    """Returns by what the second derivatives of each row's logsumexp are multiplied."""
    if loss.is_mean:
        factor /= len(loss.logits)
    if not loss.targets.is_floating_point():
        return factor
    share = loss.targets.sum(1, keepdim=True)
    return factor * ((1 - loss.label_smoothing) * share + loss.label_smoothing)


NOTES: dict[Callable, Callable] = {
    F.linear: Recorder._linear,
    F.cross_entropy: Recorder._cross_entropy,
    sum_of_squares: Recorder._sum_of_squares,
}
