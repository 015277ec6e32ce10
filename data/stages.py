"""What changes during a run, in stages of equal length."""

from collections.abc import Sequence
from fractions import Fraction
from math import floor
from typing import Generic, Protocol, TypeVar

from .batches import Position

T = TypeVar("T")


class Duration(Protocol):
    """How long a run is."""

    def passed(self, step: int, epochs: Fraction) -> Fraction:
        """Return how many such durations have passed after so many steps and epochs."""


class Stages(Generic[T]):
    """Values that follow one another in n stages of equal length over a run.

    The value i is that of batches which begin when at least i / n and less than (i + 1) / n of the duration have
    passed: of its epochs, or of its steps. It is exact, and a function of the position alone.

    Args:
        values: one a stage.
        duration: of the run; a single value needs none.

    Raises:
        ValueError: there are no values, or several and no duration.
    """

    def __init__(self, values: Sequence[T], duration: Duration | None):
        if not values:
            raise ValueError("must have at least one stage")
        if len(values) > 1 and duration is None:
            raise ValueError("several stages need the duration of the run")
        self.values, self.duration = list(values), duration

    def at(self, begun: Position, epoch_size: int) -> T:
        """Return the value for the batch that begins at a position, in epochs of `epoch_size` samples."""
        if self.duration is None or len(self.values) == 1:
            return self.values[0]
        passed = self.duration.passed(begun.step, begun.epoch + Fraction(begun.offset, epoch_size))
        return self.values[min(floor(len(self.values) * passed), len(self.values) - 1)]
