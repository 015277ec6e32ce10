"""The part of a batch that one process has, where several processes share the batch."""

from collections.abc import Callable, Sequence

from torch import Tensor


class Shard:
    """The part of a batch that this process has: here all of it, so nothing is communicated.

    Where several processes share a batch, an optimizer gets another one as its `shard`, a class derived from this.
    The loss that a closure returns then has the value of the whole batch, and the graph of a summand l_r of it, with
    which process r enters (of a part of the batch, with a graph, also the value is the summand's):

        L = sum over r of l_r,   g = sum of dl_r/dw,   H v = sum of d<dl_r/dw, v>/dw,   v H v likewise

    So an optimizer differentiates as on one process, and takes the sum of what it got before that enters anything but
    derivatives. Every process calls each method equally often and in one order.

    Attributes:
        is_whole: whether it is the whole batch.
    """

    is_whole: bool = True

    def loss(self, summand: Tensor) -> Tensor:
        """Returns the loss that a closure returns, by this process's summand of it, a scalar with its graph."""
        return summand

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the sums over the processes of tensors of one type, by one reduction."""
        return list(tensors)

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the rows (n, ...) of all processes, whose n may differ, in the order of the batch."""
        return rows

    def span(self, length: int) -> tuple[int, int]:
        """Returns where this process's entries begin among those of the whole batch, and how many these are.

        Args:
            length: of this process: a multiple of its number of samples, as of rows with one for each position.

        Raises:
            ValueError: it is no multiple.
        """
        return 0, length


WHOLE = Shard()


class Sums:
    """Sums over the processes that one reduction makes, as soon as one of them is asked for.

        of_a, of_b = sums.later(a), sums.later(b)
        of_a(), of_b()

    Args:
        shard: the part of the batch that the summands are of.
    """

    def __init__(self, shard: Shard):
        self._shard = shard
        self._waiting: list[list[Tensor]] = []

    def later(self, summands: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Returns what returns the sums over the processes of tensors of one type."""
        values = list(summands)
        self._waiting.append(values)

        def summed() -> list[Tensor]:
            self._reduce()
            return values

        return summed

    def _reduce(self) -> None:
        """Sums up what waits, in place of the summands."""
        if self._waiting:
            sums = iter(self._shard.sum([summand for values in self._waiting for summand in values]))
            for values in self._waiting:
                values[:] = [next(sums) for _ in values]
            self._waiting.clear()
