"""Which layer a function of torch.nn.functional computes, and with which parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat_torch import BATCH_NORM, INSTANCE_NORM, base_of, saved_batch_statistics
from ..functional_signatures import (
    BatchNormArguments,
    ConvolutionArguments,
    EmbeddingArguments,
    GroupNormArguments,
    InstanceNormArguments,
    LayerNormArguments,
    LinearArguments,
    sizes,
)
from .convolution import Convolution
from .layers import BatchNorm, Embedding, LayerCall, Linear, Norm, Projection

# modules whose parameters, of these names, are arguments of the functions below
LAYERS = (
    nn.Linear,
    nn.Embedding,
    nn.MultiheadAttention,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    BATCH_NORM,
    INSTANCE_NORM,
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
    """Returns a parameter that is trained; None for a frozen one and for a tensor computed from parameters."""
    return param if param is not None and param.requires_grad and param.is_leaf else None


def _trained_part(param: Tensor | None) -> Tensor | None:
    """Returns a trained parameter, or a view of a part of one, as attention uses it; None for others."""
    return None if param is None or _trained(base_of(param)) is None else param


def _linear(output: Tensor, call: LinearArguments) -> LayerCall:
    return Linear(call.input, _trained(call.weight), _trained(call.bias))


def _embedding(output: Tensor, call: EmbeddingArguments) -> LayerCall:
    padding = None if call.padding_idx is None else call.padding_idx % len(call.weight)
    return Embedding(call.input, _trained(call.weight), padding)


def _convolution(output: Tensor, call: ConvolutionArguments) -> LayerCall:
    n, x, padding = call.weight.dim() - 2, call.input, call.padding
    stride, dilation = sizes(call.stride, n), sizes(call.dilation, n)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilation, call.weight.shape[2:], strict=True)]
        if any(r % 2 for r in reach):  # one more at the end, as in torch
            x = F.pad(x.detach(), [m for r in reversed(reach) for m in (0, r % 2)])
        padding = [r // 2 for r in reach]
    margins = sizes(0 if isinstance(padding, str) else padding, n)
    options = (stride, margins, dilation, call.groups)
    return Convolution(x, _trained(call.weight), _trained(call.bias), call.weight.shape, *options)


def _batch_norm(output: Tensor, call: BatchNormArguments) -> LayerCall:
    x, running_mean, running_var, weight, bias, training, _, eps = call
    saved = saved_batch_statistics(output)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        if not training and running_mean is not None and running_var is not None:
            return running_mean, (running_var + eps).rsqrt()
        if saved is not None:
            return saved
        variance, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        return mean, (variance + eps).rsqrt()

    return BatchNorm(x, _trained(weight), _trained(bias), statistics)


def _layer_norm(output: Tensor, call: LayerNormArguments) -> LayerCall:
    x, shape, weight, bias, eps = call

    def normalize(x: Tensor) -> Tensor:
        return F.layer_norm(x, list(shape), eps=eps)

    return Norm(x, _trained(weight), _trained(bias), normalize, per_place=True)


def _group_norm(output: Tensor, call: GroupNormArguments) -> LayerCall:
    x, groups, weight, bias, eps = call

    def normalize(x: Tensor) -> Tensor:
        return F.group_norm(x, groups, eps=eps)

    return Norm(x, _trained(weight), _trained(bias), normalize, per_place=False)


def _instance_norm(output: Tensor, call: InstanceNormArguments) -> LayerCall:
    x, running_mean, running_var, weight, bias, use_input_stats, _, eps = call

    def normalize(x: Tensor) -> Tensor:
        if use_input_stats:
            return F.instance_norm(x, eps=eps)
        return F.instance_norm(x, running_mean, running_var, use_input_stats=False, eps=eps)

    return Norm(x, _trained(weight), _trained(bias), normalize, per_place=False)


# each gets the output and the arguments of a call
CALLS: dict[Any, Callable[..., LayerCall]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.batch_norm: _batch_norm,
    F.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.instance_norm: _instance_norm,
}


def projection(samples: int) -> Callable[..., LayerCall]:
    """Returns the entry of CALLS for a linear function in attention of `samples` samples."""

    def record(output: Tensor, call: LinearArguments) -> LayerCall:
        return Projection(call.input, _trained_part(call.weight), _trained_part(call.bias), samples)

    return record
