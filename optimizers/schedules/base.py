"""What our schedules share: the rate of a step is a function of the run's progress, and of nothing else."""

from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import protocols

STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")


class Progress(Protocol):
    """What a schedule needs to know of a run."""

    def elapsed(self, duration: str) -> float:
        """Returns how many such durations have passed since the run began."""


class ProgressSchedule(LRScheduler, protocols.Schedule):
    """Sets the rate of every parameter group to `rate_of` its own rate, after each step.

    What a subclass needs for that it sets before it calls `super().__init__`, which sets the first rates. As
    rates follow from `progress` alone, there is nothing that a resumed run could have lost: the state is the
    rates that the groups began with, and torch's count of calls.

    Args:
        optimizer: whose learning rates to set; it needs no momentum, nor anything else but `lr` in its groups.
        progress: of the run.

    Raises:
        ValueError: the optimizer's groups have no `lr`.
    """

    def __init__(self, optimizer: Optimizer, progress: Progress):
        self.progress = progress
        rates(optimizer)
        super().__init__(optimizer)

    def rate_of(self, initial: float) -> float:
        """Returns the rate now of a group that began with the rate `initial`."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """Returns the rate of each group now."""
        return [self.rate_of(float(initial)) for initial in self.base_lrs]

    def ratio(self, initial: float) -> float:
        """Returns what absolute rates, which are those of the first group, are multiplied by for another one."""
        first = float(self.base_lrs[0])
        if initial == first:
            return 1.0
        if first == 0:
            raise ValueError(f"lr is 0 in the first parameter group and {initial} in another: they have no ratio")
        return initial / first

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers; what the configuration says, and the progress, are not among them."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        super().load_state_dict({name: state_dict[name] for name in STATE})


def rates(optimizer: Optimizer | protocols.Optimizer) -> list[float]:
    """Returns the learning rate of every group of an optimizer.

    Raises:
        ValueError: it has none.
    """
    if not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(f"{type(optimizer).__name__} has no lr in its parameter groups")
    return [group["lr"] for group in optimizer.param_groups]


def first_rate(optimizer: Optimizer) -> float:
    """Returns the rate that the first group began with."""
    return optimizer.param_groups[0].get("initial_lr", rates(optimizer)[0])
