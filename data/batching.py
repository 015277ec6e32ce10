"""How large a batch is and how often it is used."""

from collections.abc import Iterator, Sequence

from .batches import Position
from .stages import Duration, Stages


class Constant:
    """Batches of one size, each used for K successive updates (Mandatelli 2018, chapter 2).

    A batch keeps the K of the stage that it begins in: a stage of a run in steps may end up to K - 1 steps late.

    Args:
        size: samples a batch; the last of an epoch holds what is left.
        persistency: K; 1 is the ordinary rule. A list: that of each stage, all of equal length over the run, as
            [5, 2, 1] ("reusing the minibatch only in the initial part of training", chapter 4).
        drop_last: leave the smaller last batch out.
        repeat_lr_factor: the update r = 0, …, K - 1 on a batch has the learning rate lr * repeat_lr_factor^r
            ("changing the stepsize in the subsequent iterations", chapter 4); it is the runner that does so.
        duration: of the run, where there are several stages.

    Raises:
        ValueError: K is less than 1, the list is empty, or it has several stages and there is no duration.
    """

    def __init__(
        self,
        size: int = 128,
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        self.size = size
        self.drop_last = drop_last
        self.repeat_lr_factor = repeat_lr_factor
        stages = [persistency] if isinstance(persistency, int) else list(persistency)
        if any(k < 1 for k in stages):
            raise ValueError(f"persistency={persistency}: must be >= 1")
        try:
            self._repeats = Stages(stages, duration)
        except ValueError as error:
            raise ValueError(f"persistency={persistency}: {error}") from None

    def spans(self, epoch_size: int, offset: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the batches of an epoch of `epoch_size` samples, from `offset` on."""
        for start in range(offset, epoch_size, self.size):
            stop = min(start + self.size, epoch_size)
            if stop - start < self.size and self.drop_last:
                return
            yield start, stop

    def repeats(self, begun: Position, epoch_size: int) -> int:
        """Return K for the batch that begins at a position, in epochs of `epoch_size` samples."""
        return self._repeats.at(begun, epoch_size)
