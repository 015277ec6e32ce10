"""Values that change during a run, in stages of equal length."""

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

from .protocols import Position

T = TypeVar("T")


class Duration(Protocol):
    """The length of a run."""

    def passed(self, step: int, epochs: Fraction) -> Fraction:
        """Returns how many such durations have passed after so many steps and epochs."""


class Stages(Generic[T]):
    """One value a stage, in n stages of equal length over a run, or over each of its levels.

    A level lasts from one fraction of the run to the next. Value i is that of the batches which begin when at least
    i / n and less than (i + 1) / n of a level have passed: of its epochs, or of its steps. The boundaries are exact,
    and a function of the position alone.

    Args:
        values: one a stage.
        duration: of the run; a single value needs none.
        levels: where they begin, as increasing fractions of the run, the first 0; by default the run is one level.

    Raises:
        ValueError: there are no values, or several and no duration.
    """

    def __init__(self, values: Sequence[T], duration: Duration | None, levels: Sequence[Fraction] = (Fraction(0),)):
        if not values:
            raise ValueError("must have at least one stage")
        if len(values) > 1 and duration is None:
            raise ValueError("several stages need the duration of the run")
        self.values, self.duration = list(values), duration
        ends = [*levels[1:], Fraction(1)]
        self._begins = [
            begin + (end - begin) * Fraction(i, len(values))
            for begin, end in zip(levels, ends, strict=True)
            for i in range(len(values))
        ]

    def at(self, begun: Position, epoch_size: int) -> T:
        """Returns the value for the batch that begins at a position, in epochs of `epoch_size` samples."""
        if self.duration is None or len(self.values) == 1:
            return self.values[0]
        passed = self.duration.passed(begun.step, begun.epoch + Fraction(begun.offset, epoch_size))
        return self.values[(bisect_right(self._begins, passed) - 1) % len(self.values)]

    def changes(self) -> list[tuple[Fraction, T]]:
        """Returns (fraction of the run, value) of the first value, (0, values[0]), and of each change."""
        changes: list[tuple[Fraction, T]] = []
        for index, begin in enumerate(self._begins):
            value = self.values[index % len(self.values)]
            if not changes or changes[-1][1] != value:
                changes.append((begin, value))
        return changes
