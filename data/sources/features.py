"""Features of images, computed once by a frozen backbone, as batches."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..digests import digest_of
from .devices import storage_device, to_device
from .order import epoch_generator


class Features:
    """A set of features (N, F) that yields batches (B, F) in the order of the images' batches.

    It is stored on a GPU where it takes at most half of the free memory. In the CPU's memory it may be a mapped
    file, of which only the needed parts are read.

    Args:
        values: (N, F) float32, the same in every epoch.
        labels: (N,) int64.
        device: of the batches.
    """

    is_random = False

    def __init__(self, values: Tensor, labels: Tensor, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        home = storage_device(values, self.device)
        self.values, self.labels = values.to(home), labels.to(home)
        self.shape = tuple(values.shape[1:])

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Returns a digest of what `ordered` yields: features and their order."""
        return digest_of(self.values)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (features, labels) of an epoch's order that `spans` name as (start, stop)."""
        order = torch.randperm(len(self), generator=epoch_generator(seed, epoch)).to(self.labels.device)
        for start, stop in spans:
            chosen = order[start:stop]
            yield to_device(self.values.index_select(0, chosen), self.labels.index_select(0, chosen), self.device)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the features of every image once, in order."""
        for start in range(0, len(self), batch_size):
            stop = start + batch_size
            yield to_device(self.values[start:stop], self.labels[start:stop], self.device)
