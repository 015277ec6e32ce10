"""Gradients of weights that come out of the computation of per-sample gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SharedGradient(torch.autograd.Function):
    """The identity on the outputs of a layer that was called with detached weights; gives them their gradient.

    Args:
        outputs: of the layer; they become the result, without a copy.
        weight: the trained weights.
        inputs: of the layer, kept until the backward pass.
        gradient_of: returns the gradient of the weights from the inputs and the gradient of the outputs.
    """

    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, weight: Tensor, inputs: Tensor, gradient_of: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Returns the outputs."""
        ctx.mark_dirty(outputs)
        ctx.save_for_backward(inputs)
        ctx.gradient_of, ctx.dtype = gradient_of, weight.dtype
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Returns the gradients of the outputs and of the weights."""
        return dy, ctx.gradient_of(*ctx.saved_tensors, dy).to(ctx.dtype), None, None
