"""Cosine decay, with warm restarts or without."""

from math import cos, floor, log, log1p, pi

from torch.optim import Optimizer

from ..arguments import check_fraction
from .base import Progress, ProgressSchedule

ROUNDING = 1e-9  # of a cycle: this close to its end the next one has begun


class CosineRestarts(ProgressSchedule):
    """Cosine decay with warm restarts.

    That is SGDR (Loshchilov and Hutter 2017, arXiv 1608.03983), equation 5, for each parameter group with its initial
    learning rate lr0:

        lr = lr0 * (min_lr + (1 - min_lr) * (1 + cos(pi T_cur / T_i)) / 2)

    where T_cur has passed since the last restart, and the cycles last T_0 = `period`, T_(i+1) = `period_mult` * T_i.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        period: a duration: the length of the first cycle, T_0.
        period_mult: the length of a cycle divided by that of the cycle before it, T_mult >= 1.
        min_lr: the learning rate at the end of a cycle, as a fraction of lr0, in [0, 1]; eta_min in the paper.

    Raises:
        ValueError: period_mult is below 1, or min_lr is not in [0, 1].

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> steps, lr = Steps(), []
    >>> schedule = CosineRestarts(optimizer, steps, period="2steps", period_mult=2)
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
        period_mult: float = 2.0,
        min_lr: float = 0.0,
    ):
        if period_mult < 1:
            raise ValueError(f"period_mult={period_mult}: must be >= 1")
        check_fraction("min_lr", min_lr)
        self.period = period
        self.period_mult = period_mult
        self.min_lr = min_lr
        super().__init__(optimizer, progress)

    def cycles(self) -> int:
        """Returns the number of complete cycles, which is the number of restarts.

        It grows by one after the last step of a cycle, when the weights are those at the end of the cycle.
        """
        return position(self.progress.elapsed(self.period), self.period_mult)[0]

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        _, fraction = position(self.progress.elapsed(self.period), self.period_mult)
        return initial_lr * (self.min_lr + (1 - self.min_lr) * (1 + cos(pi * fraction)) / 2)


def position(elapsed: float, period_mult: float) -> tuple[int, float]:
    """Returns the number of complete cycles, and the fraction of the current one that has passed, in [0, 1).

    Args:
        elapsed: the time since the start, in lengths of the first cycle.
        period_mult: the length of a cycle divided by that of the cycle before it.

    >>> position(2.5, 1), position(2, 2), position(3, 2)
    ((2, 0.5), (1, 0.5), (2, 0.0))
    """
    if period_mult == 1:
        return floor(elapsed), elapsed % 1
    # n cycles take (period_mult^n - 1) / (period_mult - 1). At a restart rounding may leave the logarithm below n
    n = floor(log1p(elapsed * (period_mult - 1)) / log(period_mult) + ROUNDING)
    length = period_mult**n
    return n, max(0.0, (elapsed - (length - 1) / (period_mult - 1)) / length)
