"""Which layer a function of torch.nn.functional computes, and with what."""

from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import BatchNorm, Call, Convolution, Linear, Norm, Projection

# modules whose parameters, of these names, are known to go into one of the functions below
LAYERS = (
    nn.Linear,
    nn.MultiheadAttention,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
)
PARAMETERS = {
    "weight",
    "bias",
    "in_proj_weight",
    "in_proj_bias",
    "q_proj_weight",
    "k_proj_weight",
    "v_proj_weight",
}


def _trained(param: Tensor | None) -> Tensor | None:
    """Returns a parameter that is trained; None for one that is not, or that was computed of others."""
    return param if param is not None and param.requires_grad and param.is_leaf else None


def _trained_part(param: Tensor | None) -> Tensor | None:
    """Returns a parameter, or a part of one as attention splits it, that is trained."""
    whole = param if param is None or param._base is None else param._base
    return None if _trained(whole) is None else param


def _linear(y: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
    return Linear(input, _trained(weight), _trained(bias))


def _convolution(
    y: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Call:
    n = weight.dim() - 2
    stride, dilation = _each(stride, n), _each(dilation, n)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):  # one more at the end, as torch does it
            input = F.pad(input.detach(), [m for r in reversed(reach) for m in (0, r % 2)])
        padding = [r // 2 for r in reach]
    margins = _each(0 if isinstance(padding, str) else padding, n)
    options = (stride, margins, dilation, groups)
    return Convolution(input, _trained(weight), _trained(bias), weight.shape, *options)


def _batch_norm(
    y: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call:
    means, scales = (getattr(y.grad_fn, name, None) for name in ("_saved_result1", "_saved_result2"))

    def statistics() -> tuple[Tensor, Tensor]:
        if not training and running_mean is not None and running_var is not None:
            return running_mean, (running_var + eps).rsqrt()
        if means is not None and scales is not None:  # what the forward pass has computed
            return means, scales
        variance, mean = torch.var_mean(input.detach(), [d for d in range(input.dim()) if d != 1], correction=0)
        return mean, (variance + eps).rsqrt()

    return BatchNorm(input, _trained(weight), _trained(bias), statistics)


def _layer_norm(
    y: Tensor,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call:
    def normalize(x: Tensor) -> Tensor:
        return F.layer_norm(x, normalized_shape, eps=eps)

    return Norm(input, _trained(weight), _trained(bias), normalize, per_place=True)


def _group_norm(
    y: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Call:
    def normalize(x: Tensor) -> Tensor:
        return F.group_norm(x, num_groups, eps=eps)

    return Norm(input, _trained(weight), _trained(bias), normalize, per_place=False)


def _instance_norm(
    y: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Call:
    def normalize(x: Tensor) -> Tensor:
        if use_input_stats:
            return F.instance_norm(x, eps=eps)
        return F.instance_norm(x, running_mean, running_var, use_input_stats=False, eps=eps)

    return Norm(input, _trained(weight), _trained(bias), normalize, per_place=False)


def _each(value: int | Sequence[int], length: int) -> list[int]:
    """Returns an option of a convolution for each of its dimensions."""
    values = [value] if isinstance(value, int) else list(value)
    return values * length if len(values) == 1 else values


# each gets the outputs and what the function was called with
CALLS: dict[Any, Callable[..., Call]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}


def attention(*args: Any, **options: Any) -> Any:
    """Computes F.multi_head_attention_forward, of which a TorchFunctionMode sees the parts and not the whole.

    It is torch's code, but for the question whether anybody overrides it.
    """
    whole = F.multi_head_attention_forward
    inner = FunctionType(whole.__code__, {**whole.__globals__, "has_torch_function": lambda _: False})
    inner.__defaults__, inner.__kwdefaults__ = whole.__defaults__, whole.__kwdefaults__
    return inner(*args, **options)


def projection(samples: int) -> Callable[..., Call]:
    """Returns how a linear function in attention of so many samples is taken up."""

    def call(y: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Call:
        return Projection(input, _trained_part(weight), _trained_part(bias), samples)

    return call
