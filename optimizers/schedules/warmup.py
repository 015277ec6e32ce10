"""Warm-up in front of any schedule."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

from ..protocols import Optimizer, Schedule
from .base import Progress, rates


class WarmUp(Schedule):
    """The learning rate rises linearly to what a schedule says (Goyal et al. 2017, arXiv 1706.02677, section 2.2).

    With s the share of `over` that has passed, at most 1:

        lr = (start + (1 - start) * s) * (the schedule's rate)

    The schedule's own time begins with the run, not after the warm-up. It never sees the lowered rates, so that
    those of torch that compute a rate from the last one are right too.

    Args:
        schedule: any with `step`, `state_dict` and `load_state_dict`, of this optimizer.
        optimizer: whose learning rates to set.
        progress: of the run.
        over: a duration.
        start: the share of the rate that the first step is made with, in [0, 1].

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
        if not 0 <= start <= 1:
            raise ValueError(f"start={start}: must be in [0, 1], a share of the learning rate")
        self.schedule = schedule
        self.optimizer = optimizer
        self.progress = progress
        self.over = over
        self.start = start
        self._rates = rates(optimizer)  # what the schedule says
        self._lower()

    def step(self) -> None:
        """Sets the rates of the next step."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate
        self.schedule.step()
        self._rates = rates(self.optimizer)
        self._lower()

    def cycles(self) -> int | None:
        """Returns the number of complete cycles of the schedule; None: it has no restarts."""
        return self.schedule.cycles() if hasattr(self.schedule, "cycles") else None

    def levels(self) -> Sequence[str] | str | None:
        """Returns the levels of the schedule; None: it has none."""
        return self.schedule.levels() if hasattr(self.schedule, "levels") else None

    def _lower(self) -> None:
        passed = self.progress.elapsed(self.over)
        if passed < 1:
            for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
                group["lr"] = (self.start + (1 - self.start) * passed) * rate

    def state_dict(self) -> dict[str, Any]:
        """Returns the schedule's state, and what it said last."""
        return {"schedule": self.schedule.state_dict(), "rates": self._rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.schedule.load_state_dict(state["schedule"])
        self._rates = list(state["rates"])
