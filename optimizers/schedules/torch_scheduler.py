"""Any learning-rate scheduler of torch."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..arguments import check_choice
from ..protocols import Schedule
from .base import Progress, learning_rates

UNITS = {"step": "1steps", "epoch": "1epochs"}


class TorchScheduler(Schedule):
    """A scheduler of torch.optim.lr_scheduler, or one like it, stepped after each step or each epoch.

    Its state is part of checkpoints, so a resumed run is bitwise the run.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        scheduler: called with the optimizer; returns the scheduler, as a partial of its class does. A partial of
            SequentialLR or ChainedScheduler has partials as its `schedulers`.
        per: `step` or `epoch`, the unit in which the scheduler counts.

    Raises:
        ValueError: `per` is unknown, the optimizer's groups have no `lr`, or the scheduler follows a metric.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        scheduler: Callable[[Optimizer], LRScheduler],
        per: str = "epoch",
    ):
        check_choice("per", per, UNITS)
        learning_rates(optimizer)
        self.progress = progress
        self.per = per
        self._scheduler = created(scheduler, optimizer)
        if isinstance(self._scheduler, ReduceLROnPlateau):
            raise ValueError("scheduler: ReduceLROnPlateau follows evaluations; give schedule=plateau")
        self._count = 0  # of the scheduler's steps

    def step(self) -> None:
        """Steps the scheduler if another step, or epoch, is complete."""
        while self._count < int(self.progress.elapsed(UNITS[self.per])):
            self._scheduler.step()
            self._count += 1

    def state_dict(self) -> dict[str, Any]:
        """Returns the scheduler's state, and how often it was stepped."""
        return {"scheduler": self._scheduler.state_dict(), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._scheduler.load_state_dict(state["scheduler"])
        self._count = state["count"]


def created(scheduler: Callable[[Optimizer], LRScheduler], optimizer: Optimizer) -> LRScheduler:
    """Returns a scheduler of an optimizer; of one that is made of several, these are created first.

    Args:
        scheduler: as of `TorchScheduler`.
        optimizer: of the run.

    Raises:
        ValueError: one of several is no partial.
    """
    if not isinstance(scheduler, partial) or "schedulers" not in scheduler.keywords:
        return scheduler(optimizer)
    parts = scheduler.keywords["schedulers"]
    if not all(isinstance(part, partial) for part in parts):
        raise ValueError("scheduler.schedulers: must be a list of {_target_: …, _partial_: true, …}")
    options = scheduler.keywords | {"schedulers": [created(part, optimizer) for part in parts]}
    return scheduler.func(optimizer=optimizer, **options)
