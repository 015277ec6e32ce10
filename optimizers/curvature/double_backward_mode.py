"""The mode in which a loss is computed so that its gradient is differentiated with few passes over memory."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F

from ..compat_torch import is_transformed, twice_differentiable
from ..functional_signatures import (
    SIGNATURES,
    ActivationArguments,
    BatchNormArguments,
    ConvolutionArguments,
    HardtanhArguments,
    LinearArguments,
    MaxPoolArguments,
    UnaryArguments,
    sizes,
)
from .backward_recorder import BackwardRecorder
from .batch_norm import BatchNorm
from .double_backward import BackwardRequest, Convolution, Linear, MaxPool2d, PiecewiseLinear

aten = torch.ops.aten


class LossCall(NamedTuple):
    """A call of a loss function.

    Attributes:
        function: of torch.nn.functional.
        value: what it returned, as a place in the graph.
        is_mean: whether that is a mean.
    """

    function: Callable
    value: GradientEdge
    is_mean: bool


class FastDoubleBackward(BackwardRecorder):
    """A context in which layers are computed by the functions of double_backward.py, with equal results.

    Autograd computes everything else (other layers, half precision, no graph): slower, and equally correct. Attention
    is computed by the one kernel that has a second derivative, and what was compiled runs as it was written.

    Args:
        split_at_outputs: give each loss function a copy of the network's outputs, at which the graph ends. `outputs`
            then holds the pairs (outputs, copy), and the loss is a function of the copies and of its other arguments.
        keep_statistics: batch norm does not update its running statistics, and layers do not count their passes.
        quadratic_form: the quadratic form of the Hessian will be computed, as `Curvature` does. Only for it do linear
            layers, and activations of vectors, need a function of ours: autograd's products are as fast there.
        backward_of: the parameters of `BackwardRecorder`.
        shares_batch: the batch is a part of that of several processes. Batch norm is then left to the modes around
            this one, which may take its statistics over all of them, or to autograd.

    Attributes:
        request: what the layers compute in a backward pass.
        outputs: with `split_at_outputs`, the pairs (outputs, copy).
        losses: the call of a loss function of each pair.
        loss_of_backward: the loss that `Tensor.backward` was called on, with its graph; None: it was not called.
    """

    def __init__(
        self,
        split_at_outputs: bool = False,
        keep_statistics: bool = False,
        quadratic_form: bool = False,
        backward_of: Sequence[Tensor] | None = None,
        shares_batch: bool = False,
    ):
        super().__init__(backward_of)
        self.split_at_outputs, self.quadratic_form = split_at_outputs, quadratic_form
        self.keep_statistics, self.shares_batch = keep_statistics, shares_batch
        self.request = BackwardRequest()
        self.losses: list[LossCall] = []
        self._context = twice_differentiable()

    def __enter__(self) -> "FastDoubleBackward":
        self._context.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._context.__exit__(*error)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        layer = LAYERS.get(func)
        if layer is not None:
            return layer(self, func, SIGNATURES[func](*args, **kwargs))
        if self.split_at_outputs and func in LOSSES:
            outputs, *others = args if args else (kwargs.pop("input"),)
            if outputs.requires_grad and not self._is_of_a_loss(outputs):
                copy = outputs.detach().requires_grad_()
                self.outputs.append((outputs, copy))
                value = func(copy, *others, **kwargs)
                reduction = kwargs.get("reduction", args[LOSSES[func]] if len(args) > LOSSES[func] else "mean")
                self.losses.append(LossCall(func, get_gradient_edge(value), reduction == "mean"))
                return value
            return func(outputs, *others, **kwargs)
        if self.keep_statistics and func is Tensor.add_ and _is_counter(args[0]):
            return args[0]
        return super().__torch_function__(func, types, args, kwargs)

    def _is_of_a_loss(self, outputs: Tensor) -> bool:
        """Returns whether a tensor depends on outputs that a loss function got before."""
        copies = [leaf for _, leaf in self.outputs]
        if not copies:
            return False
        with torch.enable_grad():
            gradients = torch.autograd.grad(
                [outputs], copies, [torch.ones_like(outputs)], retain_graph=True, allow_unused=True
            )
        return any(gradient is not None for gradient in gradients)


def _is_counter(tensor: Tensor) -> bool:
    """Returns whether a layer counts its passes with a tensor, as batch norm does."""
    return tensor.dim() == 0 and tensor.dtype == torch.int64


def _is_supported(*tensors: Tensor | None) -> bool:
    """Returns whether the functions of double_backward.py can compute with tensors: with a graph, in full precision."""
    inputs = [t for t in tensors if t is not None]
    return (
        torch.is_grad_enabled()
        and any(t.requires_grad for t in inputs)
        and all(t.dtype == inputs[0].dtype and t.dtype in (torch.float32, torch.float64) for t in inputs)
        and not torch.is_autocast_enabled(inputs[0].device.type)
        and not is_transformed()
    )


def _convolution(mode: FastDoubleBackward, func: Callable, call: ConvolutionArguments) -> Tensor:
    n = call.weight.dim() - 2
    if (
        isinstance(call.padding, str)
        or call.input.dim() != call.weight.dim()
        or not _is_supported(call.input, call.weight, call.bias)
    ):
        return func(*call)
    options = (sizes(call.stride, n), sizes(call.padding, n), sizes(call.dilation, n), call.groups)
    return Convolution.apply(call.input, call.weight, call.bias, options, mode.request)


def _linear(mode: FastDoubleBackward, func: Callable, call: LinearArguments) -> Tensor:
    if not mode.quadratic_form or call.weight.dim() != 2 or not _is_supported(*call):
        return func(*call)
    return Linear.apply(*call, mode.request)


def _batch_norm(mode: FastDoubleBackward, func: Callable, call: BatchNormArguments) -> Tensor:
    if call.training and mode.keep_statistics:
        call = call._replace(running_mean=None, running_var=None)
    x = call.input
    is_own = call.training and not mode.shares_batch
    if not is_own or x.numel() <= x.shape[1] or not _is_supported(x, call.weight, call.bias):
        return func(*call)
    statistics = (call.running_mean, call.running_var)
    return BatchNorm.apply(x, call.weight, call.bias, *statistics, call.momentum, call.eps, mode.request)


def _max_pool2d(mode: FastDoubleBackward, func: Callable, call: MaxPoolArguments) -> Any:
    if call.return_indices or call.input.dim() != 4 or not _is_supported(call.input):
        return func(*call)
    size = sizes(call.kernel_size, 2)
    stride = sizes(call.stride, 2) if call.stride else size
    return MaxPool2d.apply(call.input, (size, stride, sizes(call.padding, 2), sizes(call.dilation, 2), call.ceil_mode))


def _is_supported_activation(mode: FastDoubleBackward, input: Tensor) -> bool:
    return (mode.quadratic_form or input.dim() > 2) and _is_supported(input)


def _relu(
    mode: FastDoubleBackward, func: Callable, call: ActivationArguments | UnaryArguments, inplace: bool = False
) -> Tensor:
    x, inplace = call.input, inplace or getattr(call, "inplace", False)
    if _is_supported_activation(mode, x):
        return PiecewiseLinear.apply(x, aten.relu, _relu_slope, inplace)
    if not inplace and _is_supported(x):
        return torch.where(x.detach() <= 0, 0.0, x)  # through this autograd sends no zeros back
    return func(*call)


def _relu_slope(g: Tensor, y: Tensor) -> Tensor:
    return aten.threshold_backward(g, y, 0)


def _hardtanh(mode: FastDoubleBackward, func: Callable, call: HardtanhArguments) -> Tensor:
    if not _is_supported_activation(mode, call.input):
        return func(*call)
    return _clamp(*call)


def _relu6(mode: FastDoubleBackward, func: Callable, call: ActivationArguments) -> Tensor:
    return _clamp(call.input, 0.0, 6.0, call.inplace) if _is_supported_activation(mode, call.input) else func(*call)


def _clamp(x: Tensor, low: float, high: float, inplace: bool) -> Tensor:
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
    torch.relu_: partial(_relu, inplace=True),
    Tensor.relu_: partial(_relu, inplace=True),
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
}

# functions whose second derivative with respect to their input is positive semi-definite, and where `reduction` stands
LOSSES: dict[Callable, int] = {
    F.cross_entropy: 6,
    F.mse_loss: 4,
    F.binary_cross_entropy_with_logits: 5,
    F.huber_loss: 2,
    F.smooth_l1_loss: 4,
    F.soft_margin_loss: 4,
}
