"""Linear warm-up before any schedule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..arguments import check_fraction
from ..protocols import Optimizer, Schedule
from .base import Progress, learning_rates


class WarmUp(Schedule):
    """The learning rate rises linearly to that of a schedule (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    With s the fraction of `over` that has passed, at most 1:

        lr = (start + (1 - start) * s) * (the schedule's learning rate)

    The schedule's time begins with the run, not after the warm-up. The schedule never sees the lowered learning rates,
    so that schedules of torch that compute a learning rate from the last one are correct too.

    Args:
        schedule: any with `step`, `state_dict` and `load_state_dict`, of this optimizer.
        optimizer: its learning rates are set.
        progress: of the run.
        over: a duration.
        start: the factor on the learning rate of the first step, in [0, 1].

    Raises:
        ValueError: start is not in [0, 1], or the optimizer's groups have no `lr`.

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> halved = torch.optim.lr_scheduler.StepLR(optimizer, step_size=5, gamma=0.5)
    >>> steps, lr = Steps(), []
    >>> schedule = WarmUp(halved, optimizer, steps, over="4steps", start=0.2)
    >>> for steps.count in range(1, 7):
    ...     lr.append(round(optimizer.param_groups[0]["lr"], 6))
    ...     _ = optimizer.step()
    ...     schedule.step()
    >>> lr
    [0.2, 0.4, 0.6, 0.8, 1.0, 0.5]
    """

    def __init__(
        self,
        schedule: Schedule | LRScheduler,
        optimizer: Optimizer | torch.optim.Optimizer,
        progress: Progress,
        over: str,
        start: float = 0.1,
    ):
        check_fraction("start", start)
        self.schedule = schedule
        self.needs_validation = getattr(schedule, "needs_validation", False)
        self.optimizer = optimizer
        self.progress = progress
        self.over = over
        self.start = start
        self._lrs = learning_rates(optimizer)  # the schedule's
        self._lower()

    def step(self) -> None:
        """Sets the learning rates of the next step."""
        with self._unlowered():
            self.schedule.step()

    def after_evaluation(self, rows: dict[str, dict[str, Any]]) -> None:
        """Lets the schedule follow an evaluation."""
        if hasattr(self.schedule, "after_evaluation"):
            with self._unlowered():
                self.schedule.after_evaluation(rows)

    def cycles(self) -> int | None:
        """Returns the schedule's number of complete cycles; None where it has no restarts."""
        return self.schedule.cycles() if hasattr(self.schedule, "cycles") else None

    def levels(self) -> Sequence[str] | str | None:
        """Returns the schedule's levels; None where it has none."""
        return self.schedule.levels() if hasattr(self.schedule, "levels") else None

    @contextmanager
    def _unlowered(self) -> Iterator[None]:
        """Shows the schedule its own learning rates while entered."""
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr
        yield
        self._lrs = learning_rates(self.optimizer)
        self._lower()

    def _lower(self) -> None:
        fraction = self.progress.elapsed(self.over)
        if fraction < 1:
            for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
                group["lr"] = (self.start + (1 - self.start) * fraction) * lr

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule's state and its current learning rates."""
        return {"schedule": self.schedule.state_dict(), "rates": self._lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state that `state_dict` returned."""
        self.schedule.load_state_dict(state["schedule"])
        self._lrs = list(state["rates"])
