"""How often a batch is used, and batches whose size varies: the bases of the classes that decide about batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .protocols import Batching, Position
from .stages import Duration, Stages


@dataclass(kw_only=True, eq=False)
class BatchUse(Batching):
    """Batch reuse, and what happens to a smaller batch at the end of an epoch.

    A batch keeps the K of the stage in which it begins: a stage of a run in steps may end up to K - 1 steps late.

    Args:
        persistency: K, the number of successive updates on a batch (Mandatelli 2018, chapter 2, where batch reuse is
            called minibatch persistency); 1 is ordinary training. A list: that of each stage, all of equal length
            over the run, as [5, 2, 1] ("reusing the minibatch only in the initial part of training", chapter 4).
        drop_last: leave the smaller last batch of an epoch out.
        repeat_lr_factor: the update r = 0, …, K - 1 on a batch has the learning rate lr * repeat_lr_factor^r
            ("changing the stepsize in the subsequent iterations", chapter 4); the runner applies it.
        duration: of the run; needed where there are several stages.

    Attributes:
        most_repeats: the largest K.

    Raises:
        ValueError: K is less than 1, the list is empty, or it has several stages and there is no duration.
    """

    persistency: int | Sequence[int] = 1
    drop_last: bool = False
    repeat_lr_factor: float = 1.0
    duration: Duration | None = None

    def __post_init__(self) -> None:
        stages = [self.persistency] if isinstance(self.persistency, int) else list(self.persistency)
        if any(k < 1 for k in stages):
            raise ValueError(f"persistency={self.persistency}: must be >= 1")
        try:
            self._repeats = Stages(stages, self.duration)
        except ValueError as error:
            raise ValueError(f"persistency={self.persistency}: {error}") from None
        self.most_repeats = max(stages)

    @property
    def follows_duration(self) -> bool:  # type: ignore[override]
        """Whether it has several stages over the run."""
        return len(self._repeats.values) > 1

    def repeats(self, begun: Position, epoch_size: int) -> int:
        """Returns K for the batch that begins at a position, in epochs of `epoch_size` samples."""
        return self._repeats.at(begun, epoch_size)


class VariableBatchSize(BatchUse):
    """Batches whose size depends on where they begin; the base of the classes that change it during a run.

    A subclass returns the size of a batch in `size_at`, and sets `smallest` and `largest`, the bounds of all sizes.
    A new size holds from the next batch on, at any place in an epoch; each sample is still used once an epoch. The
    last batch of an epoch holds what remains. A single remaining sample joins the batch before: batch norm could not
    train on it, and where sizes change during a run nobody can foresee it.
    """

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position, in epochs of `epoch_size` samples."""
        raise NotImplementedError

    def spans_from(self, begun: Position, epoch_size: int) -> Iterator[tuple[int, int]]:
        """Yields (start, stop) of the batches of an epoch, from the one on that begins at a position."""
        start, step = begun.offset, begun.step
        while start < epoch_size:
            position = Position(begun.epoch, start, 0, step)
            size = self.size_at(position, epoch_size)
            if epoch_size - start < size and self.drop_last:
                return
            stop = min(start + size, epoch_size)
            if stop == epoch_size - 1 and size > 1 and not self.drop_last:
                stop = epoch_size
            yield start, stop
            start, step = stop, step + self.repeats(position, epoch_size)
