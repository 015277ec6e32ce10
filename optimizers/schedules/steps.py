"""Constant, multistep and exponential learning rates.

They differ from torch's schedules of these names in that milestones are durations (`82epochs`, `300steps`,
`0.05epochs`) of the run's progress, which counts epochs whatever the batch size is and is part of a checkpoint.
"""

from collections.abc import Sequence
from math import floor
from typing import Any

from torch.optim import Optimizer

from ..protocols import Schedule
from .base import Progress, ProgressSchedule


class Constant(Schedule):
    """The learning rate stays constant."""

    def __init__(self, optimizer: Optimizer):
        del optimizer

    def levels(self) -> list[str]:
        """Returns the durations after which the learning rate changes: none."""
        return []

    def step(self) -> None:
        """Does nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the state, which is empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accepts the state, which is empty."""


class Multistep(ProgressSchedule):
    """lr = lr0 * gamma^(number of milestones passed).

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        milestones: durations from the start of the run.
        gamma: the factor applied at each milestone.
    """

    def __init__(self, optimizer: Optimizer, progress: Progress, milestones: Sequence[str], gamma: float = 0.1):
        check_gamma(gamma)
        self.milestones = milestones
        self.gamma = gamma
        super().__init__(optimizer, progress)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        return initial_lr * self.gamma ** sum(self.progress.elapsed(m) >= 1 for m in self.milestones)

    def levels(self) -> list[str]:
        """Returns the durations after which the learning rate changes."""
        return list(self.milestones)


class Exponential(ProgressSchedule):
    """lr = lr0 * gamma^(t / every), with t / every rounded down if `staircase` (Zorca 2020, tables 4.1 to 4.3).

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        gamma: the factor over `every`.
        every: a duration.
        staircase: lower the learning rate once every `every` instead of smoothly.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        gamma: float = 0.94,
        every: str = "1epochs",
        staircase: bool = True,
    ):
        check_gamma(gamma)
        self.gamma = gamma
        self.every = every
        self.staircase = staircase
        super().__init__(optimizer, progress)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        elapsed = self.progress.elapsed(self.every)
        return initial_lr * self.gamma ** (floor(elapsed) if self.staircase else elapsed)

    def levels(self) -> str | None:
        """Returns the interval of the changes; None where the learning rate changes at every step."""
        return self.every if self.staircase else None


def check_gamma(gamma: float) -> None:
    """Raises ValueError unless a factor on the learning rate is positive."""
    if gamma <= 0:
        raise ValueError(f"gamma={gamma}: must be > 0")
