"""Recognizing linear softmax classifiers in a loss, while a closure computes it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..compat_torch import has_gradient_hooks, leaf_of, version_of, without_torch_function
from ..curvature.loss import gradient_with_graph
from ..functional_signatures import SIGNATURES, CrossEntropyArguments, LinearArguments, UnaryArguments
from ..regularizers.l2 import sum_of_squares
from ..shard import WHOLE, Shard

DTYPES = (torch.float32, torch.float64)


class Classifier(NamedTuple):
    """A linear softmax classifier, and the part of the loss that depends on its parameters.

    Attributes:
        inputs: X (n, D).
        weight: W (C, D).
        bias: b (C,), or None.
        trains_bias: whether b is trained.
        logits: Z = X W^T + b (n, C).
        probabilities: P = softmax(Z).
        gradient: dL/dZ (n, C).
        scale: the factor of each row's cross-entropy in the loss, a number or (n, 1).
        decay: the factor of sum W^2 / 2 in the loss.
        squares: sum W^2 where `decay` is not 0.
    """

    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    trains_bias: bool
    logits: Tensor
    probabilities: Tensor
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


class SoftmaxHeadRecorder(TorchFunctionMode):
    """A context that records the calls of which a linear softmax classifier and its loss consist.

    Args:
        params: the trained parameters.
        shard: the part of the batch that the loss is of. Of several processes, it may be computed from the
            cross-entropy of each sample.
    """

    def __init__(self, params: Sequence[Tensor], shard: Shard = WHOLE):
        super().__init__()
        self._params, self._shard = set(params), shard
        self._reductions = ("mean", "sum") if shard.is_whole else ("mean", "sum", "none")
        self._layers: list[_Layer] = []
        self._losses: list[_Loss] = []
        self._squares: list[_Squares] = []
        self._versions: list[tuple[Tensor, int]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        record = RECORDERS.get(func)
        if record is not None:
            with without_torch_function():  # the modes outside would see each look at a tensor
                if result.requires_grad:
                    record(self, result, SIGNATURES.get(func, UnaryArguments)(*args, **kwargs))
        return result

    def _record_versions(self, *tensors: Tensor | None) -> None:
        """Records tensors as they are now: where one is later changed in place, the loss is another function."""
        self._versions += [(t, version_of(t)) for t in tensors if t is not None]

    def _record_linear(self, logits: Tensor, call: LinearArguments) -> None:
        inputs, weight, bias = call
        tensors = [t for t in (logits, *call) if t is not None]
        if (
            weight in self._params
            and inputs.dim() == 2
            and (len(inputs) > 0 or not self._shard.is_whole)  # a process may have no part of a small batch
            and not inputs.requires_grad
            and (bias is None or bias.shape == logits.shape[1:])
            and all(t.dtype == weight.dtype and t.dtype in DTYPES for t in tensors)
        ):
            self._layers.append(_Layer(logits, inputs, weight, bias))
            self._record_versions(*tensors)

    def _record_cross_entropy(self, loss: Tensor, call: CrossEntropyArguments) -> None:
        logits, targets = call.input, call.target
        has_options = any(option is not None for option in (call.weight, call.size_average, call.reduce))
        is_plain = not has_options and call.reduction in self._reductions
        if is_plain and logits.dim() == 2 and not targets.requires_grad and loss.dtype == logits.dtype:
            edge, is_mean = get_gradient_edge(loss), call.reduction == "mean"
            self._losses.append(_Loss(edge, logits, targets, call.ignore_index, is_mean, call.label_smoothing))
            self._record_versions(logits, targets)

    def _record_squares(self, value: Tensor, call: UnaryArguments) -> None:
        self._squares.append(_Squares(get_gradient_edge(value), value.detach(), call.input))
        self._record_versions(call.input)

    def classifiers(self, loss: Tensor, copies: Sequence[tuple[Tensor, Tensor]]) -> list[Classifier] | None:
        """Returns the classifiers that a loss consists of; None where it depends on the parameters in any other way.

        They are those of the whole batch: features and logits of all processes are gathered.

        Args:
            loss: the closure's.
            copies: pairs (logits, copy) where a `FastDoubleBackward` gave the loss functions copies.

        Raises:
            ValueError: the closure called backward.
        """
        if any(version_of(t) != version or has_gradient_hooks(t) for t, version in self._versions):
            return None  # changed in place, or a hook changes gradients
        ends: list[_Loss | _Squares] = [*self._losses, *self._squares]
        reached = _reached_ends(loss, {end.edge.node for end in ends}, self._params)
        losses = [end for end in self._losses if end.edge.node in reached]
        squares = [end for end in self._squares if end.edge.node in reached]
        by_logits = {id(layer.logits): layer for layer in self._layers}
        layers = [by_logits[id(one.logits)] for one in losses if id(one.logits) in by_logits]
        trained = [p for layer in layers for p in (layer.weight, layer.bias) if p in self._params]
        if not losses or len(layers) < len(losses) or len(set(trained)) < len(trained):
            return None
        if not {one.weight for one in squares} <= {layer.weight for layer in layers}:
            return None
        if any(not one.targets.is_floating_point() and one.ignore_index in one.targets.tolist() for one in losses):
            return None
        if loss.grad_fn is losses[0].edge.node and (classifier := self._plain_classifier(losses[0], layers[0])):
            return [classifier]
        copy_of = {id(logits): copy for logits, copy in copies}
        logits = [copy_of.get(id(one.logits), one.logits) for one in losses]
        edges = [*(one.edge for one in losses), *(one.edge for one in squares)]
        with torch.enable_grad():
            derivatives = gradient_with_graph(loss, [*edges, *logits])
        if any(factor is None or factor.requires_grad for factor in derivatives[: len(edges)]):
            return None  # not linear in them
        factors = _numbers([f.detach() for f in derivatives[: len(edges)]])  # type: ignore[union-attr]
        decays = list(zip(squares, factors[len(losses) :], strict=True))
        here = [
            Classifier(
                layer.inputs,
                layer.weight,
                layer.bias,
                layer.bias in self._params,
                layer.logits.detach(),
                torch.softmax(layer.logits.detach(), 1),
                gradient.detach(),  # type: ignore[union-attr]
                _scale(one, factor),
                sum(2 * float(factor) for end, factor in decays if end.weight is layer.weight),
                next((float(end.value) for end in squares if end.weight is layer.weight), 0.0),
            )
            for layer, one, factor, gradient in zip(
                layers, losses, factors[: len(losses)], derivatives[len(edges) :], strict=True
            )
        ]
        return here if self._shard.is_whole else [_gathered(classifier, self._shard) for classifier in here]

    def _plain_classifier(self, loss: _Loss, layer: _Layer) -> Classifier | None:
        """Returns the classifier where the whole loss is its cross-entropy with classes; None with options, or a shard.

        Its gradient, scale * (P - [class]), needs no backward pass.
        """
        if loss.targets.is_floating_point() or loss.label_smoothing or not self._shard.is_whole:
            return None
        logits = layer.logits.detach()
        probabilities, scale = torch.softmax(logits, 1), 1 / len(logits) if loss.is_mean else 1.0
        gradient = probabilities * scale
        gradient.scatter_add_(1, loss.targets[:, None], logits.new_full((len(logits), 1), -scale))
        trains_bias = layer.bias in self._params
        bound = layer.inputs, layer.weight, layer.bias, trains_bias, logits, probabilities, gradient
        return Classifier(*bound, scale, decay=0.0, squares=0.0)


def _numbers(factors: Sequence[Tensor]) -> list[Tensor | float]:
    """Returns factors of rows (n,) as they are, and scalars as numbers, which are read at once."""
    scalars = [f for f in factors if f.dim() == 0]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    return [f if f.dim() else next(numbers) for f in factors]


def _gathered(classifier: Classifier, shard: Shard) -> Classifier:
    """Returns the classifier on the whole batch, by that on the part of each process.

    A row holds features, logits, their gradient and the scale of a sample. A last row of each process is marked, and
    holds what it counts of the decay.
    """
    X, Z, G = classifier.inputs, classifier.logits, classifier.gradient
    scale = X.new_zeros(len(X), 1) + classifier.scale
    samples = torch.cat([X, Z, G, scale, torch.zeros_like(scale)], 1)
    mark = X.new_zeros(1, samples.shape[1])
    mark[0, 0], mark[0, -1] = classifier.decay, 1.0
    rows = shard.gather(torch.cat([samples, mark]))
    is_mark = rows[:, -1] > 0
    decay = float(rows[is_mark, 0].sum())
    X, Z, G, scale, _ = rows[~is_mark].split([X.shape[1], Z.shape[1], Z.shape[1], 1, 1], 1)
    inputs, logits, gradient = X.contiguous(), Z.contiguous(), G.contiguous()
    return classifier._replace(
        inputs=inputs,
        logits=logits,
        probabilities=torch.softmax(logits, 1),
        gradient=gradient,
        scale=scale.contiguous(),
        decay=decay,
    )


def _reached_ends(loss: Tensor, ends: set[Node], params: set[Tensor]) -> set[Node]:
    """Returns the ends that the loss depends on directly; none where it so depends on a parameter."""
    reached, seen, waiting = set(), set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in ends:
            reached.add(node)
        elif (leaf := leaf_of(node)) is not None and leaf in params:
            return set()
        else:
            waiting += [after for after, _ in node.next_functions]
    return reached


def _scale(loss: _Loss, factor: Tensor | float) -> Tensor | float:
    """Returns the factor of the second derivatives of each row's logsumexp, a number or (n, 1).

    Args:
        loss: the call.
        factor: of its value in the whole loss: a number, or (n,) where that is a value for each row.
    """
    if isinstance(factor, Tensor):
        factor = factor.unsqueeze(1)
    if loss.is_mean:
        factor /= len(loss.logits)
    if not loss.targets.is_floating_point():
        return factor
    mass = loss.targets.sum(1, keepdim=True)
    return factor * ((1 - loss.label_smoothing) * mass + loss.label_smoothing)


RECORDERS: dict[Callable, Callable] = {
    F.linear: SoftmaxHeadRecorder._record_linear,
    F.cross_entropy: SoftmaxHeadRecorder._record_cross_entropy,
    sum_of_squares: SoftmaxHeadRecorder._record_squares,
}
