"""Cyclical learning rates."""

from math import cos, floor, pi

from torch.optim import Optimizer

from ..arguments import check_choice
from .base import Progress, ProgressSchedule, absolute_reference

MODES = ("triangular", "triangular2", "exp_range")
WINDOWS = {
    "linear": lambda x: x,
    "parabolic": lambda x: 1 - (1 - x) ** 2,
    "sinusoidal": lambda x: (1 - cos(pi * x)) / 2,
}


class Cyclic(ProgressSchedule):
    """The learning rate cycles between two bounds (Smith 2017, arXiv 1506.01186, section 3.1).

    With e = t / `step_up`, the half cycles passed, and c = floor(e / 2), the whole cycles passed:

        x  = 1 - |e - 2 c - 1|                     the triangular wave: 0, up to 1, and back
        lr = base_lr + (max_lr - base_lr) * a * w(x)

    where the amplitude a is, by `mode`,

        triangular    1
        triangular2   2^-c: half of it after each cycle
        exp_range     gamma^(t / gamma_every)

    and the window w(x) is, by `window`, as Smith and Mandatelli 2018 (section 3.1) name them,

        linear        x
        parabolic     1 - (1 - x)^2, Welch's window
        sinusoidal    (1 - cos(pi x)) / 2, Hann's window

    `base_lr` and `max_lr` are for parameter groups with the optimizer's learning rate; those of others keep their ratio
    to it.

    Unlike torch's CyclicLR it does not change the momentum, so that it works with any optimizer, and its state is
    plain numbers.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        base_lr: the lower bound; None: a quarter of `max_lr` (Smith, section 3.3: a third or a quarter).
        max_lr: the upper bound; None: the optimizer's learning rate.
        step_up: a duration: the rising half of a cycle, Smith's stepsize. The falling half is as long.
        mode: triangular, triangular2 or exp_range.
        window: linear, parabolic or sinusoidal.
        gamma: exp_range only: the factor on the amplitude over `gamma_every`.
        gamma_every: a duration.

    Raises:
        ValueError: base_lr is not below max_lr, gamma is not in (0, 1], or mode or window are unknown.

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    >>> steps, lr = Steps(), []
    >>> schedule = Cyclic(optimizer, steps, base_lr=1.0, max_lr=3.0, step_up="2steps", mode="triangular2")
    >>> for steps.count in range(1, 9):
    ...     lr.append(optimizer.param_groups[0]["lr"])
    ...     _ = optimizer.step()
    ...     schedule.step()
    >>> lr
    [1.0, 2.0, 3.0, 2.0, 1.0, 1.5, 2.0, 1.5]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        base_lr: float | None = None,
        max_lr: float | None = None,
        step_up: str = "5epochs",
        mode: str = "triangular",
        window: str = "linear",
        gamma: float = 0.99994,
        gamma_every: str = "1steps",
    ):
        self.reference_lr = absolute_reference(optimizer, base_lr, max_lr)
        self.max_lr = self.reference_lr if max_lr is None else max_lr
        self.base_lr = self.max_lr / 4 if base_lr is None else base_lr
        if not 0 <= self.base_lr < self.max_lr:
            raise ValueError(f"base_lr={self.base_lr}: must be below max_lr={self.max_lr}, and not below 0")
        check_choice("mode", mode, MODES)
        check_choice("window", window, WINDOWS)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma={gamma}: must be in (0, 1]")
        self.step_up = step_up
        self.mode = mode
        self.window = window
        self.gamma = gamma
        self.gamma_every = gamma_every
        super().__init__(optimizer, progress)

    def cycles(self) -> int:
        """Returns the number of complete cycles."""
        return floor(self.progress.elapsed(self.step_up) / 2)

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        half_cycles, cycles = self.progress.elapsed(self.step_up), self.cycles()
        wave = 1 - abs(half_cycles - 2 * cycles - 1)
        height = self.amplitude(cycles) * WINDOWS[self.window](wave)
        return (self.base_lr + (self.max_lr - self.base_lr) * height) * self.ratio(initial_lr)

    def amplitude(self, cycles: int) -> float:
        """Returns the amplitude after a number of complete cycles, as a fraction of max_lr - base_lr."""
        if self.mode == "triangular2":
            return 0.5**cycles
        if self.mode == "exp_range":
            return self.gamma ** self.progress.elapsed(self.gamma_every)
        return 1.0
