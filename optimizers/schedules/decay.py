"""Learning rates that fall once: cosine, linear, polynomial, and warmup-stable-decay."""

from math import cos, pi, sqrt

from torch.optim import Optimizer

from ..arguments import check_choice, check_fraction
from .base import Progress, ProgressSchedule

SHAPES = {  # of a decay: the part of the learning rate that is left after the fraction s of it
    "linear": lambda s: 1 - s,
    "cosine": lambda s: (1 + cos(pi * s)) / 2,
    "sqrt": lambda s: 1 - sqrt(s),
}


class Decay(ProgressSchedule):
    """The learning rate falls from its initial value lr0 to `min_lr` * lr0 over a duration, and stays there.

        lr = lr0 * (min_lr + (1 - min_lr) * remaining(s))        s = min(1, t / over)

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        over: a duration.
        min_lr: the last learning rate, as a fraction of lr0, in [0, 1].

    Raises:
        ValueError: min_lr is not in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, progress: Progress, over: str, min_lr: float = 0.0):
        check_fraction("min_lr", min_lr)
        self.over = over
        self.min_lr = min_lr
        super().__init__(optimizer, progress)

    def remaining(self, fraction: float) -> float:
        """Returns what is left of the learning rate, from 1 to 0, after a fraction of the decay."""
        raise NotImplementedError

    def lr_of(self, initial_lr: float) -> float:
        """Returns the current learning rate of a group with an initial one."""
        fraction = min(1.0, self.progress.elapsed(self.over))
        return initial_lr * (self.min_lr + (1 - self.min_lr) * self.remaining(fraction))


class Cosine(Decay):
    """Cosine decay: remaining(s) = (1 + cos(pi s)) / 2.

    That is the first cycle of SGDR (Loshchilov and Hutter 2017, arXiv 1608.03983, equation 5), and torch's
    CosineAnnealingLR up to its end.
    """

    def remaining(self, fraction: float) -> float:
        """Returns what is left of the learning rate after a fraction of the decay."""
        return SHAPES["cosine"](fraction)


class Linear(Decay):
    """Linear decay: remaining(s) = 1 - s; torch's LinearLR with start_factor=1 and end_factor=min_lr."""

    def remaining(self, fraction: float) -> float:
        """Returns what is left of the learning rate after a fraction of the decay."""
        return SHAPES["linear"](fraction)


class Polynomial(Decay):
    """Polynomial decay: remaining(s) = (1 - s)^power; with min_lr=0 torch's PolynomialLR.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        over: a duration.
        min_lr: the last learning rate, as a fraction of the initial one, in [0, 1].
        power: of the polynomial, > 0 (Chen et al. 2017, arXiv 1606.00915, section 4.1: 0.9).

    Raises:
        ValueError: power is not positive, or min_lr is not in [0, 1].
    """

    def __init__(self, optimizer: Optimizer, progress: Progress, over: str, min_lr: float = 0.0, power: float = 0.9):
        if power <= 0:
            raise ValueError(f"power={power}: must be > 0")
        self.power = power
        super().__init__(optimizer, progress, over, min_lr)

    def remaining(self, fraction: float) -> float:
        """Returns what is left of the learning rate after a fraction of the decay."""
        return (1 - fraction) ** self.power


class WarmupStableDecay(Decay):
    """A constant learning rate that falls at the end of a run, after the common `warmup` at its start.

    The last `decay` of `over` is the decay (Hu et al. 2024, arXiv 2404.06395; Hägele et al. 2024, arXiv
    2405.18392). With s' the fraction of the decay that has passed, remaining is, by `shape`,

        linear   1 - s'
        cosine   (1 + cos(pi s')) / 2
        sqrt     1 - sqrt(s')              the best of Hägele et al.

    Args:
        optimizer: its learning rates are set.
        progress: of the run.
        over: a duration: that of the run.
        min_lr: the last learning rate, as a fraction of the initial one, in [0, 1].
        decay: the length of the decay, as a fraction of `over`, in (0, 1].
        shape: linear, cosine or sqrt.

    Raises:
        ValueError: decay is not in (0, 1], min_lr not in [0, 1], or the shape is unknown.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        progress: Progress,
        over: str,
        min_lr: float = 0.0,
        decay: float = 0.2,
        shape: str = "sqrt",
    ):
        if not 0 < decay <= 1:
            raise ValueError(f"decay={decay}: must be in (0, 1], a fraction of {over}")
        check_choice("shape", shape, SHAPES)
        self.decay = decay
        self.shape = shape
        super().__init__(optimizer, progress, over, min_lr)

    def remaining(self, fraction: float) -> float:
        """Returns what is left of the learning rate after a fraction of the run."""
        return SHAPES[self.shape](max(0.0, 1 - (1 - fraction) / self.decay))
