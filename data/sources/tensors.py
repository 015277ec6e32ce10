"""Inputs in memory that are used as they are, as batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..digests import digest_of
from .devices import storage_device, to_device
from .order import epoch_generator


class Tensors:
    """A set of inputs of any shape and type that yields batches (B, ...), in the order of images' batches.

    It is stored on a GPU where it takes at most half of the free memory. In the CPU's memory it may be a mapped
    file, of which only the needed parts are read.

    Args:
        values: (N, ...), the same in every epoch.
        targets: (N, ...), of any type.
        device: of the batches.
    """

    is_random = False

    def __init__(self, values: Tensor, targets: Tensor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        home = storage_device(values, self.device)
        self.values, self.targets = values.to(home), targets.to(home)
        self.shape = tuple(values.shape[1:])

    def __len__(self) -> int:
        return len(self.targets)

    def digest(self) -> str:
        """Returns a digest of what `ordered` yields: inputs and their order."""
        return digest_of(self.values)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (inputs, targets) of an epoch's order that `spans` name as (start, stop)."""
        order = torch.randperm(len(self), generator=epoch_generator(seed, epoch)).to(self.targets.device)
        for start, stop in spans:
            chosen = order[start:stop]
            yield to_device(self.values.index_select(0, chosen), self.targets.index_select(0, chosen), self.device)

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the inputs in order: batches first, first + every and so on."""
        for start in range(first * batch_size, len(self), every * batch_size):
            stop = start + batch_size
            # a copy, which a network may change in place
            yield to_device(self.values[start:stop].clone(), self.targets[start:stop], self.device)


class Features(Tensors):
    """A set of features (N, F), float32, in place of the images that they were computed from."""
