"""The rate of a learning-rate range test."""

from torch.optim import Optimizer

from ..arguments import check_choice
from .base import Progress, Schedule

RISES = ("linear", "exponential")


class RangeTest(Schedule):
    """The learning rate rises from `low` to `high`.

    That is the range test of Smith 2017 (arXiv 1506.01186), section 3.3, and Mandatelli 2018, section 3.1. With s
    the share of `over` that has passed, at most 1:

        linear        lr = low + (high - low) * s      as in both papers
        exponential   lr = low * (high / low)^s        every order of magnitude gets as many steps

    `low` and `high` are rates of the first parameter group; those of the others keep their ratio to it.

    Args:
        optimizer: whose learning rates to set.
        progress: of the run.
        over: a duration.
        low: where the rate begins; above 0 where the rise is exponential.
        high: where it ends.
        rise: linear or exponential.

    Attributes:
        is_range_test: tells a run to end after `over`, and to read bounds off the accuracy.

    Raises:
        ValueError: low is not below high, or is 0 where the rise is exponential, or rise is unknown.

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    >>> steps, lr = Steps(), []
    >>> schedule = RangeTest(optimizer, steps, over="4steps", low=0.0001, high=1.0)
    >>> for steps.count in range(1, 6):
    ...     lr.append(round(optimizer.param_groups[0]["lr"], 6))
    ...     _ = optimizer.step()
    ...     schedule.step()
    >>> lr
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """

    is_range_test = True

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        over: str,
        low: float = 1e-5,
        high: float = 10.0,
        rise: str = "exponential",
    ):
        if low is None or high is None or not 0 <= low < high:
            raise ValueError(f"low={low}, high={high}: must be numbers, low below high and not below 0")
        check_choice("rise", rise, RISES)
        if rise == "exponential" and low == 0:
            raise ValueError("low=0: an exponential rise must begin above 0; give another low, or rise=linear")
        self.over = over
        self.low = low
        self.high = high
        self.rise = rise
        super().__init__(optimizer, progress)

    def rate_of(self, initial: float) -> float:
        """Returns the rate now of a group that began with the rate `initial`."""
        share = min(1.0, self.progress.elapsed(self.over))
        if self.rise == "linear":
            rate = self.low + (self.high - self.low) * share
        else:
            rate = self.low * (self.high / self.low) ** share
        return rate * self.ratio(initial)
