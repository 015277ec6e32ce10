"""The private parts of torch that this package uses, each behind one function here. A release of torch may change them.

They are oneDNN's convolutions for CPUs, which torch's own compiler calls, and what torch.fx sees of an assertion.
`KNOWN_TO_WORK` is the version that tests/models/test_compat_torch.py last passed with; the test tries each part.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

KNOWN_TO_WORK = "2.14.1"


class Geometry(NamedTuple):
    """Of a convolution in two dimensions."""

    padding: list[int]
    stride: list[int]
    dilation: list[int]
    groups: int


def has_onednn_convolutions(bf16: bool) -> bool:
    """Returns whether `packed_weight` and `packed_convolution` work here, with weights in bfloat16 or float32."""
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_convolution_pointwise"):
        return False
    return not bf16 or ops._is_mkldnn_bf16_supported()


def packed_weight(weight: Tensor, geometry: Geometry) -> Tensor:
    """Returns the weight (O, C / groups, H, W) of a convolution in the memory layout of oneDNN's kernels."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, [])


def packed_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: str, numbers: list[float]
) -> Tensor:
    """Returns activation(convolution(x)), (B, C, H, W) -> (B, O, H', W').

    Args:
        x: inputs, of the weight's dtype.
        weight: of `packed_weight`.
        bias: (O,) or None.
        geometry: of the convolution.
        activation: oneDNN's name, as relu, hardtanh, swish or none.
        numbers: the activation's parameters.
    """
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, numbers, "")


def is_assertion(target: Any) -> bool:
    """Returns whether the target of a node of torch.fx is an assertion."""
    return target is torch._assert
