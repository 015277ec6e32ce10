"""Cyclical learning rates."""

from math import cos, floor, pi

from torch.optim import Optimizer

from ..arguments import check_choice
from .base import Progress, Schedule, first_rate

FORMS = ("triangular", "triangular2", "exp_range")
WINDOWS = {
    "linear": lambda x: x,
    "parabolic": lambda x: 1 - (1 - x) ** 2,
    "sinusoidal": lambda x: (1 - cos(pi * x)) / 2,
}


class Cyclic(Schedule):
    """The learning rate goes up and down between two bounds (Smith 2017, arXiv 1506.01186, section 3.1).

    With e the number of half cycles passed and c = floor(e / 2) the number of whole ones:

        x  = 1 - |e - 2 c - 1|                     the triangular wave: 0, up to 1, and back
        lr = low + (high - low) * a * w(x)

    where the amplitude a is, by `form`,

        triangular    1
        triangular2   2^-c: half of it after each cycle
        exp_range     gamma^(t / gamma_every)

    and the window w(x) is, by `window`, as Smith and Mandatelli 2018 (section 3.1) name them,

        linear        x
        parabolic     1 - (1 - x)^2, Welch's window
        sinusoidal    (1 - cos(pi x)) / 2, Hann's window

    `low` and `high` are rates of the first parameter group; those of the others keep their ratio to it.

    Unlike torch's CyclicLR it leaves momentum alone, so that any optimizer will do, and its state is plain
    numbers.

    Args:
        optimizer: whose learning rates to set.
        progress: of the run.
        low: the lower bound; None: a quarter of `high` (Smith, section 3.3: a third or a quarter).
        high: the upper bound; None: the learning rate that the optimizer was given.
        half_cycle: a duration: from one bound to the other, Smith's stepsize.
        form: triangular, triangular2 or exp_range.
        window: linear, parabolic or sinusoidal.
        gamma: of exp_range: the amplitude's factor over `gamma_every`.
        gamma_every: a duration.

    Raises:
        ValueError: low is not below high, gamma is not in (0, 1], or form or window are unknown.

    >>> import torch
    >>> class Steps:
    ...     count = 0
    ...     def elapsed(self, duration):
    ...         return self.count / int(duration.removesuffix("steps"))
    >>> optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    >>> steps, lr = Steps(), []
    >>> schedule = Cyclic(optimizer, steps, low=1.0, high=3.0, half_cycle="2steps", form="triangular2")
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
        low: float | None = None,
        high: float | None = None,
        half_cycle: str = "5epochs",
        form: str = "triangular",
        window: str = "linear",
        gamma: float = 0.99994,
        gamma_every: str = "1steps",
    ):
        self.high = first_rate(optimizer) if high is None else high
        self.low = self.high / 4 if low is None else low
        if not 0 <= self.low < self.high:
            raise ValueError(f"low={self.low}: must be below high={self.high}, and not below 0")
        check_choice("form", form, FORMS)
        check_choice("window", window, WINDOWS)
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma={gamma}: must be in (0, 1]")
        self.half_cycle = half_cycle
        self.form = form
        self.window = window
        self.gamma = gamma
        self.gamma_every = gamma_every
        super().__init__(optimizer, progress)

    def cycles(self) -> int:
        """Returns how many whole cycles have passed."""
        return floor(self.progress.elapsed(self.half_cycle) / 2)

    def rate_of(self, initial: float) -> float:
        """Returns the rate now of a group that began with the rate `initial`."""
        passed, cycles = self.progress.elapsed(self.half_cycle), self.cycles()
        wave = 1 - abs(passed - 2 * cycles - 1)
        height = self.amplitude(cycles) * WINDOWS[self.window](wave)
        return (self.low + (self.high - self.low) * height) * self.ratio(initial)

    def amplitude(self, cycles: int) -> float:
        """Returns what is left of high - low after so many whole cycles."""
        if self.form == "triangular2":
            return 0.5**cycles
        if self.form == "exp_range":
            return self.gamma ** self.progress.elapsed(self.gamma_every)
        return 1.0
