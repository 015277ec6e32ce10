"""Sets of samples that change what another one yields."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from .protocols import Source

BATCH = 256  # samples at a time, where all are gathered


class SourceWrapper(Source):
    """The base of sets that change the batches of another one; all else is that one's.

    Args:
        source: the samples.
    """

    def __init__(self, source: Source):
        self.source, self.device = source, source.device

    def __len__(self) -> int:
        return len(self.source)

    @property
    def is_random(self) -> bool:
        """Whether an input differs from epoch to epoch."""
        return self.source.is_random

    @property
    def targets(self) -> Tensor:
        """Targets of all samples."""
        return self.source.targets

    @property
    def augmentation(self) -> Any:
        """The source's augmentation; None where it has none."""
        return getattr(self.source, "augmentation", None)

    def digest(self) -> str:
        """Returns the source's digest of all that the inputs depend on."""
        return self.source.digest()

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the samples in order: batches first, first + every and so on."""
        return self.source.ordered(batch_size, first, every)


class Reconstruction(SourceWrapper):
    """Samples whose targets are their inputs, for autoencoders: as the network gets them, augmented while training.

    Args:
        source: the samples; their targets do not count.
    """

    @property
    def targets(self) -> Tensor:
        """The inputs of all samples, without augmentation."""
        return torch.cat([inputs for inputs, _ in self.source.ordered(BATCH)])

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the source's batches of an epoch, inputs twice."""
        yield from ((inputs, inputs) for inputs, _ in self.source.epoch(seed, epoch, spans))

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the samples in order, inputs twice: batches first, first + every and so on."""
        yield from ((inputs, inputs) for inputs, _ in self.source.ordered(batch_size, first, every))
