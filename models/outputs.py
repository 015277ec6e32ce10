"""What a network returns, tried on two inputs before a run."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter


def output_failure(
    network: nn.Module, input_shape: tuple[int, ...], num_classes: int | None, dtype: torch.dtype
) -> str | None:
    """Returns why the outputs of a network in training mode cannot be trained, in one line; None if they can.

    Args:
        network: that computes such inputs; left unchanged.
        input_shape: of an input.
        num_classes: of which each needs an output; None: outputs may have any shape.
        dtype: of inputs, which are zeros.
    """
    if any(isinstance(p, UninitializedParameter) for p in network.parameters()):
        return "has lazy layers, whose parameters have no shape yet; give their sizes, it may take input_shape"
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        return "has no parameters to train; layers must be attributes of it, and a list of layers an nn.ModuleList"
    with torch.random.fork_rng(devices=[]):
        result = copy.deepcopy(network).train()(torch.zeros(2, *input_shape, dtype=dtype, device=parameters[0].device))
    right = f"a tensor {'(B, ...)' if num_classes is None else f'(B, {num_classes})'}"
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) not in (1, 2) or not all(isinstance(part, Tensor) for part in parts):
        what = f"({', '.join(type(part).__name__ for part in parts)})" if parts is result else type(result).__name__
        return f"returns {what}, must return {right}, or two of them: outputs and auxiliary outputs"
    for part in parts:
        if not part.is_floating_point():
            return f"returns a tensor of {part.dtype}, must return {right} of floats, as logits without argmax"
        fits = part.dim() == 2 and part.shape[1] >= num_classes if num_classes is not None else part.dim() > 0
        if not fits or len(part) != 2:
            return f"returns {list(part.shape)} for a batch of 2, must return {right}"
        if not part.requires_grad:
            return f"returns {right} without its graph; compute it without torch.no_grad, detach or numpy"
    return None
