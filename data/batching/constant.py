"""Batches of one size."""

from collections.abc import Iterator
from dataclasses import dataclass

from .base import BatchUse


@dataclass(eq=False)
class Constant(BatchUse):
    """Batches of one size, each used for K successive updates.

    Args:
        size: samples a batch; the last batch of an epoch holds what remains.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.

    Raises:
        ValueError: the size is less than 1.
    """

    size: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size < 1:
            raise ValueError(f"size={self.size}: must be >= 1")

    def spans(self, epoch_size: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch of `epoch_size` samples, from `offset` on."""
        for start in range(offset, epoch_size, self.size):
            stop = min(start + self.size, epoch_size)
            if stop - start < self.size and self.drop_last:
                return
            yield start, stop
