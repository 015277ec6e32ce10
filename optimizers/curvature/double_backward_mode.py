"""Computing a loss so that its gradient can be differentiated quickly."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .batch_norm import BatchNorm
from .double_backward import Convolution, Linear, MaxPool2d, PiecewiseLinear, Sweep

aten = torch.ops.aten


class Trace(TorchFunctionMode):
    """A context in which layers are computed by the functions of second_backward.py, with equal results.

    Whatever those do not know (other layers, half precision, no graph wanted) is left to autograd, which is slower
    and as right. Attention is computed by the one kernel that can be differentiated twice.

    Args:
        split: give each loss function a copy of the network's outputs, in which the graph ends. `outputs` then
            holds pairs (outputs, copy), and the loss is a function of the copies and of what else it was given.
        keep_statistics: batch norm leaves its running statistics as they are; layers do not count their passes.
        along: the curvature along directions will be asked for. Only for that linear layers, and activations of
            vectors, need a function of ours: autograd's second derivatives of them cost no more.
    """

    def __init__(self, split: bool = False, keep_statistics: bool = False, along: bool = False):
        super().__init__()
        self.split, self.along = split, along
        self.keep_statistics = keep_statistics
        self.sweep = Sweep()
        self.outputs: list[tuple[Tensor, Tensor]] = []
        self._contexts = ExitStack()

    def __enter__(self) -> "Trace":
        from torch.nn.attention import SDPBackend, sdpa_kernel

        self._contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._contexts.close()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        layer = LAYERS.get(func)
        if layer is not None:
            return layer(self, func, *args, **kwargs)
        if self.split and func in LOSSES:
            outputs, *others = args if args else (kwargs.pop("input"),)
            if outputs.requires_grad and not self._is_of_a_loss(outputs):
                copy = outputs.detach().requires_grad_()
                self.outputs.append((outputs, copy))
                outputs = copy
            return func(outputs, *others, **kwargs)
        if self.keep_statistics and func is Tensor.add_ and _is_counter(args[0]):
            return args[0]
        return func(*args, **kwargs)

    def _is_of_a_loss(self, outputs: Tensor) -> bool:
        """Returns whether outputs are computed of those that a loss function was given before."""
        copies = [leaf for _, leaf in self.outputs]
        if not copies:
            return False
        with torch.enable_grad():
            found = torch.autograd.grad(
                [outputs], copies, [torch.ones_like(outputs)], retain_graph=True, allow_unused=True
            )
        return any(part is not None for part in found)


def _is_counter(tensor: Tensor) -> bool:
    """Returns whether this is what a layer counts its passes with, as batch norm does."""
    return tensor.dim() == 0 and tensor.dtype == torch.int64


def _taken(*tensors: Tensor | None) -> bool:
    """Returns whether these are for the functions of second_backward.py: a graph is wanted, in full precision."""
    given = [t for t in tensors if t is not None]
    return (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in given)
        and all(t.dtype == given[0].dtype and t.dtype in (torch.float32, torch.float64) for t in given)
        and not torch.is_autocast_enabled(given[0].device.type)
        and torch._C._functorch.peek_interpreter_stack() is None  # torch.func has rules of its own
    )


def _tuple(value: Any, length: int) -> list[int]:
    return [value] * length if isinstance(value, int) else list(value)


def _convolution(
    trace: Trace,
    func: Callable,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    n = weight.dim() - 2
    if isinstance(padding, str) or input.dim() != weight.dim() or not _taken(input, weight, bias):
        return func(input, weight, bias, stride, padding, dilation, groups)
    options = (_tuple(stride, n), _tuple(padding, n), _tuple(dilation, n), groups)
    return Convolution.apply(input, weight, bias, options, trace.sweep)


def _linear(trace: Trace, func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not trace.along or weight.dim() != 2 or not _taken(input, weight, bias):
        return func(input, weight, bias)
    return Linear.apply(input, weight, bias, trace.sweep)


def _batch_norm(
    trace: Trace,
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training and trace.keep_statistics:
        running_mean = running_var = None
    if not training or input.numel() <= input.shape[1] or not _taken(input, weight, bias):
        return func(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps, trace.sweep)


def _max_pool2d(
    trace: Trace,
    func: Callable,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    if return_indices or input.dim() != 4 or not _taken(input):
        return func(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    size = _tuple(kernel_size, 2)
    steps = _tuple(stride, 2) if stride else size
    return MaxPool2d.apply(input, (size, steps, _tuple(padding, 2), _tuple(dilation, 2), ceil_mode))


def _activation_taken(trace: Trace, input: Tensor) -> bool:
    return (trace.along or input.dim() > 2) and _taken(input)


def _relu(trace: Trace, func: Callable, input: Tensor, inplace: bool = False) -> Tensor:
    if _activation_taken(trace, input):
        return PiecewiseLinear.apply(input, aten.relu, _relu_slope, inplace)
    if not inplace and _taken(input):
        return input * (input.detach() > 0).to(input.dtype)  # of a product no zeros flow back
    return func(input, inplace) if inplace else func(input)


def _relu_(trace: Trace, func: Callable, input: Tensor) -> Tensor:
    return (
        PiecewiseLinear.apply(input, aten.relu, _relu_slope, True) if _activation_taken(trace, input) else func(input)
    )


def _relu_slope(g: Tensor, y: Tensor) -> Tensor:
    return aten.threshold_backward(g, y, 0)


def _hardtanh(
    trace: Trace,
    func: Callable,
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Tensor:
    if not _activation_taken(trace, input):
        return func(input, min_val, max_val, inplace)
    return _clamped(input, min_val, max_val, inplace)


def _relu6(trace: Trace, func: Callable, input: Tensor, inplace: bool = False) -> Tensor:
    return _clamped(input, 0.0, 6.0, inplace) if _activation_taken(trace, input) else func(input, inplace)


def _clamped(x: Tensor, low: float, high: float, inplace: bool) -> Tensor:
    return PiecewiseLinear.apply(
        x,
        lambda x: aten.hardtanh(x, low, high),
        lambda g, y: aten.hardtanh_backward(g, y, low, high),
        inplace,
    )


LAYERS: dict[Callable, Callable] = {
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.linear: _linear,
    F.batch_norm: _batch_norm,
    F.max_pool2d: _max_pool2d,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _relu_,
    Tensor.relu_: _relu_,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
}

# functions whose second derivative with respect to their input is positive semi-definite
LOSSES = {
    F.cross_entropy,
    F.mse_loss,
    F.binary_cross_entropy_with_logits,
    F.huber_loss,
    F.smooth_l1_loss,
    F.soft_margin_loss,
}
