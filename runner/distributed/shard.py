"""The part of a batch that a process of a run has."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainopt.optimizers import Shard
from trainopt.optimizers.vectors import flatten, unflatten

from .dropout import SharedDropout
from .ranks import shard_of

if TYPE_CHECKING:
    from .group import Group


class BatchShard(Shard):
    """The part of a batch that a process of a run has.

    Args:
        group: of the processes.
        device: of the batch.
        lengths: returns the number of samples that each process has of a batch of a size.

    Attributes:
        batch_size: samples that the loss is a mean of: those of the whole batch, or of its beginning where a loss is
            of that alone.
        dropout: what draws masks for it.
    """

    is_whole = False
    batch_size: int = 1

    def __init__(self, group: "Group", device: torch.device, lengths: Callable[[int], list[int]]):
        self._group, self._lengths = group, lengths
        self._start, self._stop, self._size = 0, 0, 1  # this process's samples among those of a pass
        self.dropout = SharedDropout(self, device)

    def begin(self, batch_size: int, first: int | None = None) -> int:
        """Sets the samples that the next loss is of; returns the number of those here.

        Args:
            batch_size: of the whole batch.
            first: so many samples of its beginning are used; None: all.
        """
        self.batch_size = self._size = batch_size if first is None else min(first, batch_size)
        lengths, rank = self._lengths(batch_size), self._group.rank
        self._start, self._stop = (min(sum(lengths[:r]), self._size) for r in (rank, rank + 1))
        return self._stop - self._start

    def begin_part(self, size: int) -> None:
        """Sets the samples of the next pass to those of a part of the batch, of so many in all processes."""
        self._start, self._stop = shard_of(0, size, self._group.rank, self._group.size)
        self._size = size

    def loss(self, summand: Tensor) -> Tensor:
        """Returns the loss of the whole batch, with the graph of this process's summand."""
        whole = self.sum([summand.detach()])[0]
        return LocalGraph.apply(summand, whole) if torch.is_grad_enabled() else whole

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the sums over the processes of tensors of one type, by one reduction."""
        flat = flatten(tensors)
        self._group.all_reduce_later(flat)()
        return unflatten(flat, tensors)

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the rows (n, ...) of all processes, in the order of the batch."""
        return self._group.gather(rows)

    def span(self, length: int) -> tuple[int, int]:
        """Returns where entries of this process begin among those of the whole batch, and how many these are."""
        samples = self._stop - self._start
        times, rest = divmod(length, samples) if samples else (1, length)
        if rest:
            raise ValueError(f"a layer gets {length} rows for {samples} samples of a rank; train on one process")
        return times * self._start, times * self._size


class LocalGraph(torch.autograd.Function):
    """A loss with the value of the whole batch, and the graph of this process's summand."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor, whole: Tensor) -> Tensor:
        """Returns the value of the whole."""
        del ctx, summand
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Returns the derivative by the summand."""
        del ctx
        return gradient, None
