"""Cosine decay, with warm restarts or without."""

from math import cos, floor, log, log1p, pi

from torch.optim import Optimizer

from .base import Progress, Schedule

ROUNDING = 1e-9  # of a cycle: so close to its end, the next one has begun


class CosineRestarts(Schedule):
    """The learning rate falls along a cosine and begins again.

    That is SGDR (Loshchilov and Hutter 2017, arXiv 1608.03983), equation 5, for each parameter group
    with its own rate lr0:

        lr = lr0 * (lowest + (1 - lowest) * (1 + cos(pi T_cur / T_i)) / 2)

    where T_cur has passed since the last restart, and the cycles last T_0 = `period`, T_(i+1) = `growth` * T_i.
    Cosine decay without a restart is the case of a period as long as the run.

    Args:
        optimizer: whose learning rates to set.
        progress: of the run.
        period: a duration: of the first cycle, T_0.
        growth: of each cycle's length, T_mult >= 1; 1: all are equally long.
        lowest: what each cycle ends with, as a share of the group's own rate in [0, 1].

    Raises:
        ValueError: growth is below 1, or lowest not in [0, 1].

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> steps, lr = Steps(), []
    >>> schedule = CosineRestarts(optimizer, steps, period="2steps", growth=2)
    >>> for steps.count in range(1, 9):
    ...     lr.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     _ = optimizer.step()
    ...     schedule.step()
    >>> lr
    [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0, 0.962]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        period: str = "10epochs",
        growth: float = 2.0,
        lowest: float = 0.0,
    ):
        if growth < 1:
            raise ValueError(f"growth={growth}: must be at least 1")
        if not 0 <= lowest <= 1:
            raise ValueError(f"lowest={lowest}: must be in [0, 1], a share of the learning rate")
        self.period = period
        self.growth = growth
        self.lowest = lowest
        super().__init__(optimizer, progress)

    def cycles(self) -> int:
        """Returns how many cycles are complete now, which is how often the rate has begun again.

        It grows by one at the step after which the schedule restarts: what looks at it after that step, sees the
        weights that a cycle ended with.
        """
        return position(self.progress.elapsed(self.period), self.growth)[0]

    def rate_of(self, initial: float) -> float:
        """Returns the rate now of a group that began with the rate `initial`."""
        _, share = position(self.progress.elapsed(self.period), self.growth)
        return initial * (self.lowest + (1 - self.lowest) * (1 + cos(pi * share)) / 2)


def position(passed: float, growth: float) -> tuple[int, float]:
    """Returns how many cycles are complete, and which share of the current one has passed, in [0, 1).

    Args:
        passed: since the start, in lengths of the first cycle.
        growth: of each cycle's length.

    >>> position(2.5, 1), position(2, 2), position(3, 2)
    ((2, 0.5), (1, 0.5), (2, 0.0))
    """
    if growth == 1:
        return floor(passed), passed % 1
    # n cycles take (growth^n - 1) / (growth - 1); where a restart is due, the logarithm may fall just short of n
    n = floor(log1p(passed * (growth - 1)) / log(growth) + ROUNDING)
    length = growth**n
    return n, max(0.0, (passed - (length - 1) / (growth - 1)) / length)
