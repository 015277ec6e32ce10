"""How large a batch is and how often it is used."""

from collections.abc import Iterator


class Constant:
    """Batches of one size, each used for `persistency` successive updates.

    Args:
        size: samples a batch; the last of an epoch holds what is left.
        persistency: K of Mandatelli 2018, chapter 2; 1 is the ordinary rule.
        drop_last: leave the smaller last batch out.
    """

    def __init__(self, size: int = 128, persistency: int = 1, drop_last: bool = False):
        self.size = size
        self.persistency = persistency
        self.drop_last = drop_last

    def spans(self, epoch_size: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the batches of an epoch of `epoch_size` samples, from `offset` on."""
        for start in range(offset, epoch_size, self.size):
            stop = min(start + self.size, epoch_size)
            if stop - start < self.size and self.drop_last:
                return
            yield start, stop
