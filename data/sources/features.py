"""Features of images that a frozen backbone computed once, as batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from .memory import fits
from .order import epoch_generator


class Features:
    """A set of features (N, F) that gives batches (B, F) in the order in which the images would come.

    On a GPU the set itself lies there where it fits into half of the free memory. In the memory of the machine it
    may be a file's that is mapped: then only what is asked for is read.

    Args:
        values: (N, F) float32, not random: the same in every epoch.
        labels: (N,) int64.
        device: where batches go.
    """

    is_random = False

    def __init__(self, values: Tensor, labels: Tensor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        home = self.device if fits(values, self.device) else torch.device("cpu")
        self.values, self.labels = values.to(home), labels.to(home)
        self.shape = tuple(values.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (features, labels) of an epoch's order that `spans` name as (start, stop)."""
        order = torch.randperm(len(self), generator=epoch_generator(seed, epoch)).to(self.labels.device)
        for start, stop in spans:
            chosen = order[start:stop]
            yield self._moved(self.values.index_select(0, chosen), self.labels.index_select(0, chosen))

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the features of every image once, in order."""
        for start in range(0, len(self), batch_size):
            yield self._moved(self.values[start : start + batch_size], self.labels[start : start + batch_size])

    def _moved(self, values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if values.device != self.device:
            values = values.pin_memory().to(self.device, non_blocking=True)
            labels = labels.pin_memory().to(self.device, non_blocking=True)
        return values, labels
