"""What averages of a network's weights have in common: torch's AveragedModel."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..protocols import Averaging


class Progress(Protocol):
    """The progress of a run, as an average uses it."""

    step: int  # updates made

    def elapsed(self, duration: str) -> float:
        """Returns the time since the run began, in units of a duration."""


class NetworkAverage(Averaging):
    """An average of a network, which torch's AveragedModel computes; a subclass says when.

    Args:
        network: a copy of it holds the average.
        **options: further arguments of AveragedModel.
    """

    def __init__(self, network: nn.Module, **options: Any):
        self.network = network
        self.averaged = AveragedModel(network, **options)
        self.count = 0

    def update(self) -> None:
        """Takes the present weights into the average."""
        self.averaged.update_parameters(self.network)
        self.count += 1

    def apply(self) -> None:
        """Copies the average into the network."""
        copy_tensors(self.averaged.module, self.network)

    def state_dict(self) -> dict[str, Any]:
        """Returns how many weights the average is of."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned, and from the average, which the network has."""
        copy_tensors(self.network, self.averaged.module)
        self.count = state["count"]
        self.averaged.n_averaged.fill_(self.count)


@torch.no_grad()
def copy_tensors(source: nn.Module, target: nn.Module) -> None:
    """Copies parameters and buffers from one module into another of the same structure."""
    for value, goal in zip(tensors_of(source), tensors_of(target), strict=True):
        goal.copy_(value)


def tensors_of(module: nn.Module) -> Iterator[Tensor]:
    """Yields the parameters and buffers of a module."""
    return chain(module.parameters(), module.buffers())
