"""L2 regularization as a term of the loss."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from ..protocols import Regularizer

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def sum_of_squares(param: Tensor) -> Tensor:
    """Returns sum w^2, by a call that a TorchFunctionMode can recognize."""
    if has_torch_function_unary(param):
        return handle_torch_function(sum_of_squares, (param,), param)
    return param.square().sum()


class L2(Regularizer):
    """strength * sum w^2 over the weights of convolution and fully connected layers.

    Without 1/2, without biases and norms, a term of the loss and not the optimizer's weight decay
    (Zorca 2020, section 4.3.1). Its gradient is 2 * strength * w.

    >>> penalty = L2(strength=0.5)
    >>> penalty([torch.tensor([1.0, 2.0])]).item()
    2.5

    Args:
        strength: lambda.
    """

    def __init__(self, strength: float = 1e-4):
        if strength < 0:
            raise ValueError(f"strength={strength}: must be >= 0")
        self.strength = strength

    @staticmethod
    def covers(layer: nn.Module, name: str) -> bool:
        """Returns whether the penalty applies to the parameter `name` of a layer."""
        return name == "weight" and isinstance(layer, LAYERS)

    def __call__(self, params: Sequence[Tensor]) -> Tensor:
        """Returns the scalar to add to a loss."""
        return self.strength * torch.stack([sum_of_squares(p) for p in params]).sum()
