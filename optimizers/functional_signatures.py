"""The signatures of the functions of torch that the modes of this package intercept.

A `TorchFunctionMode` gets a call as `func(*args, **kwargs)`. `SIGNATURES[func](*args, **kwargs)` gives the arguments
their names and defaults; `func(*arguments)` makes the same call again.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = int | Sequence[int]  # one for all dimensions, or one for each


def sizes(value: Sizes, dimensions: int) -> list[int]:
    """Returns an option of a convolution or a pooling for each of its dimensions.

    >>> sizes(2, 2), sizes([3], 2), sizes((1, 2), 2)
    ([2, 2], [3, 3], [1, 2])
    """
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


class UnaryArguments(NamedTuple):
    """Of a function of one tensor."""

    input: Tensor


class ActivationArguments(NamedTuple):
    """Of an activation that can be computed in place."""

    input: Tensor
    inplace: bool = False


class HardtanhArguments(NamedTuple):
    """Of F.hardtanh."""

    input: Tensor
    min_val: float = -1.0
    max_val: float = 1.0
    inplace: bool = False


class LinearArguments(NamedTuple):
    """Of F.linear."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None


class EmbeddingArguments(NamedTuple):
    """Of F.embedding."""

    input: Tensor
    weight: Tensor
    padding_idx: int | None = None
    max_norm: float | None = None
    norm_type: float = 2.0
    scale_grad_by_freq: bool = False
    sparse: bool = False


class ConvolutionArguments(NamedTuple):
    """Of F.conv1d, conv2d and conv3d."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Sizes = 1
    padding: Sizes | str = 0
    dilation: Sizes = 1
    groups: int = 1


class MaxPoolArguments(NamedTuple):
    """Of F.max_pool2d."""

    input: Tensor
    kernel_size: Sizes
    stride: Sizes | None = None
    padding: Sizes = 0
    dilation: Sizes = 1
    ceil_mode: bool = False
    return_indices: bool = False


class BatchNormArguments(NamedTuple):
    """Of F.batch_norm."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5


class InstanceNormArguments(NamedTuple):
    """Of F.instance_norm."""

    input: Tensor
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    use_input_stats: bool = True
    momentum: float = 0.1
    eps: float = 1e-5


class LayerNormArguments(NamedTuple):
    """Of F.layer_norm."""

    input: Tensor
    normalized_shape: Sequence[int]
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class GroupNormArguments(NamedTuple):
    """Of F.group_norm."""

    input: Tensor
    num_groups: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class CrossEntropyArguments(NamedTuple):
    """Of F.cross_entropy."""

    input: Tensor
    target: Tensor
    weight: Tensor | None = None
    size_average: bool | None = None
    ignore_index: int = -100
    reduce: bool | None = None
    reduction: str = "mean"
    label_smoothing: float = 0.0


SIGNATURES: dict[Callable, Callable[..., Any]] = {
    F.linear: LinearArguments,
    F.embedding: EmbeddingArguments,
    F.conv1d: ConvolutionArguments,
    F.conv2d: ConvolutionArguments,
    F.conv3d: ConvolutionArguments,
    F.max_pool2d: MaxPoolArguments,
    F.batch_norm: BatchNormArguments,
    F.instance_norm: InstanceNormArguments,
    F.layer_norm: LayerNormArguments,
    F.group_norm: GroupNormArguments,
    F.relu: ActivationArguments,
    F.relu6: ActivationArguments,
    torch.relu: UnaryArguments,
    torch.relu_: UnaryArguments,
    Tensor.relu: UnaryArguments,
    Tensor.relu_: UnaryArguments,
    F.hardtanh: HardtanhArguments,
    F.cross_entropy: CrossEntropyArguments,
}
