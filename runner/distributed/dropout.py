"""Dropout whose masks are those of the whole batch, whose samples several processes have."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from trainopt.optimizers import Shard

FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
RATES = {  # of other layers that draw masks, those of timm and torchvision among them
    "DropPath": "drop_prob",
    "StochasticDepth": "p",
    "MultiheadAttention": "dropout",
    **dict.fromkeys(("RNN", "LSTM", "GRU"), "dropout"),
}


class SharedDropout(TorchFunctionMode):
    """Lets dropout draw the mask of the whole batch, and take this process's part of it, while entered.

    So the masks are those of one process, and the generators of all processes stay in the same state. What else draws
    random numbers would not be the same: between `begin` and `draws_otherwise` such draws are noticed.

    Args:
        shard: the part of the batch that this process has.
        device: of the batch.
    """

    def __init__(self, shard: Shard, device: torch.device):
        super().__init__()
        self._shard, self._device = shard, device
        self.begin()

    def begin(self) -> None:
        """Begins to notice draws."""
        self._states, self._is_otherwise = self._present(), False

    def draws_otherwise(self) -> bool:
        """Returns whether random numbers were drawn, but for masks, since `begin`."""
        same = all(torch.equal(a, b) for a, b in zip(self._states, self._present(), strict=True))
        return self._is_otherwise or not same

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch."""
        if function in FUNCTIONS:
            return self._dropout(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _dropout(
        self, function: Any, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or p == 0:
            return function(input, p, training, inplace)
        start, size = self._shard.span(len(input))
        channels_last = input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)
        ones = torch.ones((size, *input.shape[1:]), dtype=input.dtype, device=input.device)
        if channels_last and not input.is_contiguous():  # numbers are drawn in the order of memory
            ones = ones.to(memory_format=torch.channels_last)
        self._is_otherwise = self.draws_otherwise()
        mask = function(ones, p, True)[start : start + len(input)]
        self._states = self._present()
        return input.mul_(mask) if inplace else input * mask

    def _present(self) -> list[Tensor]:
        """Returns the states of the generators."""
        on_gpu = [torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]


def rate_of(layer: nn.Module) -> float:
    """Returns the probability with which a layer drops what it gets; 0 for a layer that draws no mask."""
    name = type(layer).__name__
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return layer.p
    return getattr(layer, RATES[name], None) or 0.0 if name in RATES else 0.0


def has_dropout(network: nn.Module) -> bool:
    """Returns whether a network has layers of dropout whose masks can be shared."""
    return any(isinstance(m, LAYERS) and m.p > 0 for m in network.modules())
