"""The learning-rate range test."""

from torch.optim import Optimizer

from ..arguments import check_choice
from .base import Progress, ProgressSchedule, absolute_reference

MODES = ("linear", "exponential")


class RangeTest(ProgressSchedule):
    """The learning rate rises from `base_lr` to `max_lr`.

    That is the range test of Smith 2017 (arXiv 1506.01186), section 3.3, and Mandatelli 2018, section 3.1. With s
    the fraction of `over` that has passed, at most 1:

        linear        lr = base_lr + (max_lr - base_lr) * s      as in both papers
        exponential   lr = base_lr * (max_lr / base_lr)^s        every order of magnitude gets as many steps

    `base_lr` and `max_lr` are for parameter groups with the optimizer's learning rate; those of others keep their ratio
    to it.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        over: a duration.
        base_lr: the first learning rate; > 0 where the mode is exponential.
        max_lr: the last one.
        mode: linear or exponential.

    Attributes:
        is_range_test: makes a run end after `over` and estimate the bounds from the accuracy.

    Raises:
        ValueError: base_lr is not below max_lr, or is 0 where the mode is exponential, or mode is unknown.

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    >>> steps, lr = Steps(), []
    >>> schedule = RangeTest(optimizer, steps, over="4steps", base_lr=0.0001, max_lr=1.0)
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
        base_lr: float = 1e-5,
        max_lr: float = 10.0,
        mode: str = "exponential",
    ):
        if base_lr is None or max_lr is None or not 0 <= base_lr < max_lr:
            raise ValueError(
                f"base_lr={base_lr}, max_lr={max_lr}: must be numbers, base_lr below max_lr and not below 0"
            )
        check_choice("mode", mode, MODES)
        if mode == "exponential" and base_lr == 0:
            raise ValueError("base_lr=0: must be > 0 with mode=exponential; give another base_lr, or mode=linear")
        self.reference_lr = absolute_reference(optimizer, base_lr, max_lr)
        self.over = over
        self.base_lr = base_lr
        self.max_lr = max_lr
        self.mode = mode
        super().__init__(optimizer, progress)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        fraction = min(1.0, self.progress.elapsed(self.over))
        if self.mode == "linear":
            lr = self.base_lr + (self.max_lr - self.base_lr) * fraction
        else:
            lr = self.base_lr * (self.max_lr / self.base_lr) ** fraction
        return lr * self.ratio(initial_lr)
