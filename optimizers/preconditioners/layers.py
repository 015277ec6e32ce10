"""The linear and convolution layers of a network, as a forward pass calls them."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..compat_torch import has_gradient_hooks, without_torch_function
from ..functional_signatures import SIGNATURES, ConvolutionArguments, LinearArguments, sizes
from ..shard import WHOLE, Shard

CHUNK = 2**22  # numbers of unfolded inputs that are in memory at a time, about


class LayerCall(NamedTuple):
    """A call of a layer.

    Attributes:
        weight: W (out, in), or (out, in, ...) of a convolution.
        bias: b (out,), None where there is none that is trained.
        inputs: of the layer, without their graph.
        outputs: their place in the graph.
        positions: for each entry of the inputs' first dimension.
        arguments: of the call.
    """

    weight: Tensor
    bias: Tensor | None
    inputs: Tensor
    outputs: GradientEdge
    positions: int
    arguments: LinearArguments | ConvolutionArguments

    def rows(self, shard: Shard) -> int:
        """Returns the number of samples times positions, in the whole batch."""
        return self.positions * (shard.span(len(self.inputs))[1] if self.inputs.dim() > 1 else 1)

    def input_rows(self, most: float = math.inf, shard: Shard = WHOLE) -> Iterator[Tensor]:
        """Yields the inputs a of the matrix W (rows, in), a row for each sample and position, in parts.

        Args:
            most: about how many rows of the whole batch are enough; they are those of its first samples.
            shard: the part of the batch that the inputs are.
        """
        x, call = self.inputs, self.arguments
        if x.dim() > 1 and most < self.rows(shard):
            x = x[: max(0, math.ceil(most / self.positions) - shard.span(len(x))[0])]
        if isinstance(call, LinearArguments):
            yield x.reshape(-1, x.shape[-1]).to(self.weight.dtype)
            return
        size = self.weight.shape[2:]
        pixels = max(1, math.prod(x.shape[2:]))
        for part in x.split(max(1, CHUNK // (pixels * self.weight[0].numel()))):
            yield _patches(part.to(self.weight.dtype), size, call)

    def output_rows(self, dy: Tensor) -> Tensor:
        """Returns derivatives dy at the outputs as rows (rows, out), one for each sample and position."""
        by_row = dy if isinstance(self.arguments, LinearArguments) else dy.movedim(1, -1)
        return by_row.reshape(-1, by_row.shape[-1]).to(self.weight.dtype)


def _patches(x: Tensor, size: Sequence[int], call: ConvolutionArguments) -> Tensor:
    """Returns what a convolution multiplies its weights with, (B positions, in k k), from inputs (B, in, H, W)."""
    n = len(size)
    stride, dilation = sizes(call.stride, n), sizes(call.dilation, n)
    if call.padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, size, strict=True)]
        x = F.pad(x, [m for r in reversed(reach) for m in (r // 2, r - r // 2)])
    padding = [0] * n if isinstance(call.padding, str) else sizes(call.padding, n)
    if n == 1:
        x, size = x.unsqueeze(2), [1, *size]
        stride, dilation, padding = [1, *stride], [1, *dilation], [0, *padding]
    columns = F.unfold(x, tuple(size), tuple(dilation), tuple(padding), tuple(stride))
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


class LayerRecorder(TorchFunctionMode):
    """A context that records the calls of linear and convolution layers with trained weights.

    It sees the functions of torch.nn.functional, so it needs neither modules nor hooks. Weights that are computed from
    parameters, convolutions with groups or in three dimensions, and the weights inside torch's nn.MultiheadAttention
    are not recorded.

    Args:
        params: the trained parameters.

    Attributes:
        calls: by weight.
    """

    def __init__(self, params: Sequence[Tensor]):
        super().__init__()
        self._params = set(params)
        self._used_elsewhere: set[Tensor] = set()
        self.calls: dict[Tensor, list[LayerCall]] = {}

    @property
    def linear_calls(self) -> list[LayerCall]:
        """Calls of linear layers whose weight and bias were used once: their gradients are those of the call.

        For a loss of the outputs alone, and derivatives dy and inputs x as rows, these are dy^T x and the sum of dy.
        """
        ones = [calls[0] for calls in self.calls.values() if len(calls) == 1]
        biases = Counter(call.bias for calls in self.calls.values() for call in calls if call.bias is not None)
        return [
            one
            for one in ones
            if isinstance(one.arguments, LinearArguments)
            and not {one.weight, one.bias} & self._used_elsewhere
            and (one.bias is None or biases[one.bias] == 1)
            and not any(has_gradient_hooks(p) for p in (one.weight, one.bias) if p is not None)
        ]

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in LAYERS:
            output = func(*args, **kwargs)
            with without_torch_function():
                # what returns None, as p.grad = None does, is no use
                is_use = output.requires_grad if isinstance(output, Tensor) else output is not None
                if is_use:
                    parts = (part for value in (*args, *kwargs.values()) for part in _listed(value))
                    self._used_elsewhere |= self._params.intersection(p for p in parts if isinstance(p, Tensor))
            return output
        call = SIGNATURES[func](*args, **kwargs)
        inputs = call.input.detach()
        output = func(*args, **kwargs)
        with without_torch_function():  # the modes outside would see each look at a tensor
            self._record(inputs, output, call)
        return output

    def _record(self, inputs: Tensor, output: Tensor, call: LinearArguments | ConvolutionArguments) -> None:
        weight = call.weight
        is_plain = isinstance(call, LinearArguments) or (call.groups == 1 and inputs.dim() == weight.dim())
        if weight in self._params and weight.dim() >= 2 and output.requires_grad and is_plain:
            bias = call.bias if call.bias is not None and call.bias in self._params else None
            edge = get_gradient_edge(output)
            positions = math.prod(output.shape[1:-1] if isinstance(call, LinearArguments) else output.shape[2:])
            self.calls.setdefault(weight, []).append(LayerCall(weight, bias, inputs, edge, positions, call))


def _listed(value: Any) -> Sequence[Any]:
    """Returns the entries of a list or a tuple; of another value, itself."""
    return value if isinstance(value, list | tuple) else (value,)


LAYERS = (F.linear, F.conv1d, F.conv2d)
