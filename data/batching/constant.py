"""How large a batch is and how often it is used."""

from collections.abc import Iterator, Sequence

from .stages import Duration, Stages
from .stream import Position


class Batching:
    """How often a batch is used, and what becomes of a smaller one at the end of an epoch.

    A batch keeps the K of the stage that it begins in: a stage of a run in steps may end up to K - 1 steps late.

    Args:
        persistency: K, the successive updates that are made on a batch (Mandatelli 2018, chapter 2); 1 is the
            ordinary rule. A list: that of each stage, all of equal length over the run, as [5, 2, 1] ("reusing the
            minibatch only in the initial part of training", chapter 4).
        drop_last: leave the smaller last batch out.
        repeat_lr_factor: the update r = 0, …, K - 1 on a batch has the learning rate lr * repeat_lr_factor^r
            ("changing the stepsize in the subsequent iterations", chapter 4); it is the runner that does so.
        duration: of the run, where there are several stages.

    Attributes:
        most_repeats: the largest K.

    Raises:
        ValueError: K is less than 1, the list is empty, or it has several stages and there is no duration.
    """

    def __init__(
        self,
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        self.drop_last = drop_last
        self.repeat_lr_factor = repeat_lr_factor
        stages = [persistency] if isinstance(persistency, int) else list(persistency)
        if any(k < 1 for k in stages):
            raise ValueError(f"persistency={persistency}: must be >= 1")
        try:
            self._repeats = Stages(stages, duration)
        except ValueError as error:
            raise ValueError(f"persistency={persistency}: {error}") from None
        self.most_repeats = max(stages)

    def repeats(self, begun: Position, epoch_size: int) -> int:
        """Returns K for the batch that begins at a position, in epochs of `epoch_size` samples."""
        return self._repeats.at(begun, epoch_size)


class Constant(Batching):
    """Batches of one size, each used for K successive updates.

    Args:
        size: samples a batch; the last of an epoch holds what is left.
        persistency: K, or K of each stage, as in `Batching`.
        drop_last: leave the smaller last batch out.
        repeat_lr_factor: of the learning rate, from one update on a batch to the next.
        duration: of the run, where there are several stages.
    """

    def __init__(
        self,
        size: int = 128,
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        super().__init__(persistency, drop_last, repeat_lr_factor, duration)
        self.size = size

    def spans(self, epoch_size: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch of `epoch_size` samples, from `offset` on."""
        for start in range(offset, epoch_size, self.size):
            stop = min(start + self.size, epoch_size)
            if stop - start < self.size and self.drop_last:
                return
            yield start, stop


class Changing(Batching):
    """Batches whose size depends on where they begin; the base of those that change it during a run.

    A subclass says in `size_at` how large a batch is, and sets `smallest` and `largest`, the sizes that it keeps
    between. Where the size changes, at any place in an epoch, the next batch has the new one: each sample is used
    once an epoch all the same. The last batch of an epoch holds what is left; a single sample that would be left
    joins the batch before (which batch norm could not train on, and which nobody can foresee where sizes change
    during a run).
    """

    smallest: int
    largest: int

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position, in epochs of `epoch_size` samples."""
        raise NotImplementedError

    def spans_from(self, begun: Position, epoch_size: int) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch, from the one on that begins at a position."""
        start, step = begun.offset, begun.step
        while start < epoch_size:
            here = Position(begun.epoch, start, 0, step)
            size = self.size_at(here, epoch_size)
            if epoch_size - start < size and self.drop_last:
                return
            stop = min(start + size, epoch_size)
            if stop == epoch_size - 1 and size > 1 and not self.drop_last:
                stop = epoch_size
            yield start, stop
            start, step = stop, step + self.repeats(here, epoch_size)
