"""The part of a batch that one process has, where several processes share the batch."""

from collections.abc import Sequence

from torch import Tensor


class Shard:
    """The part of a batch that this process has: here all of it, so nothing is communicated.

    Where several processes share a batch, an optimizer gets another one as its `shard`, a class derived from this.
    The loss that a closure returns then has the value of the whole batch, and the graph of a summand l_r of it, with
    which process r enters:

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
