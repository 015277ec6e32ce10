"""The base class of our schedules: the learning rate is a function of the run's progress alone."""

from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .. import protocols

STATE = ("base_lrs", "last_epoch", "_step_count", "_last_lr")
REFERENCE = "reference_lr"  # also of the state; states of earlier versions lack it


class Progress(Protocol):
    """The progress of a run, as a schedule uses it."""

    def elapsed(self, duration: str) -> float:
        """Returns the time since the run began, in units of a duration."""


class ProgressSchedule(LRScheduler, protocols.Schedule):
    """Sets the learning rate of each parameter group to `lr_of` its initial one, after each step.

    A subclass sets its attributes before it calls `super().__init__`, which sets the first learning rates. As learning
    rates follow from `progress`, the state is the groups' initial learning rates and torch's count of calls.

    Args:
        optimizer: its parameter groups need an `lr`, and nothing else.
        progress: of the run.

    Attributes:
        reference_lr: the initial learning rate of the groups that absolute learning rates are for, which
            `absolute_reference` returns; None: that of the first group.

    Raises:
        ValueError: the optimizer's groups have no `lr`.
    """

    reference_lr: float | None = None

    def __init__(self, optimizer: Optimizer, progress: Progress):
        self.progress = progress
        learning_rates(optimizer)
        super().__init__(optimizer)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """Returns the current learning rate of each group."""
        return [self.lr_of(float(initial_lr)) for initial_lr in self.base_lrs]

    def ratio(self, initial_lr: float) -> float:
        """Returns the factor on absolute learning rates, which are for `reference_lr`, for a group with an initial one.

        Raises:
            ValueError: `reference_lr` is 0, and the group's is not.
        """
        reference = float(self.base_lrs[0]) if self.reference_lr is None else self.reference_lr
        if initial_lr == reference:
            return 1.0
        if reference == 0:
            raise ValueError(f"lr is 0, and {initial_lr} in a parameter group: they have no ratio")
        return initial_lr / reference

    def state_dict(self) -> dict[str, Any]:
        """Returns plain numbers, without the arguments and the progress."""
        return {name: getattr(self, name) for name in (*STATE, REFERENCE)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state that `state_dict` returned."""
        super().load_state_dict({name: state_dict[name] for name in STATE} | {REFERENCE: state_dict.get(REFERENCE)})


def learning_rates(optimizer: Optimizer | protocols.Optimizer) -> list[float]:
    """Returns the learning rate of each parameter group.

    Raises:
        ValueError: a group has no `lr`.
    """
    if not all("lr" in group for group in optimizer.param_groups):
        raise ValueError(f"{type(optimizer).__name__} has no lr in its parameter groups")
    return [group["lr"] for group in optimizer.param_groups]


def first_initial_lr(optimizer: Optimizer) -> float:
    """Returns the initial learning rate of the first parameter group."""
    return optimizer.param_groups[0].get("initial_lr", learning_rates(optimizer)[0])


def absolute_reference(optimizer: Optimizer, *absolute: float | None) -> float:
    """Returns the initial learning rate of the groups that absolute learning rates are for.

    That is the optimizer's own, which all groups have unless they say otherwise. Where all absolute learning rates are
    None, it is the first group's: the ratios are the same.
    """
    first = float(first_initial_lr(optimizer))
    return first if all(lr is None for lr in absolute) else float(optimizer.defaults.get("lr", first))
