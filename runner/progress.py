"""How far a run is: counts, position in the data, and when something is due."""

from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, Protocol

from .durations import Duration

_parse = cache(Duration.parse)


class _Batch(Protocol):
    targets: Any
    after: Any


@dataclass
class Progress:
    """The counts of a run; part of its checkpoint.

    `epoch` complete epochs, `offset` samples of the current one and `repeat` updates on the current batch are the
    position in the data; steps, samples, gradient evaluations and Hessian-vector products are what it cost.
    """

    epoch_size: int  # samples an epoch
    step: int = 0
    epoch: int = 0
    offset: int = 0
    repeat: int = 0
    samples: int = 0
    gradients: int = 0
    hvps: int = 0

    @property
    def epochs(self) -> float:
        """Epochs so far, with the started one as a fraction."""
        return self.epoch + self.offset / self.epoch_size

    def advance(self, batch: _Batch) -> None:
        """Count an update on a batch."""
        self.step += 1
        self.epoch, self.offset, self.repeat = batch.after

    def elapsed(self, duration: str) -> float:
        """Return how many such durations, as in `0.05epochs` or `300steps`, have passed since the run began.

        >>> Progress(epoch_size=100, epoch=1, offset=50).elapsed("0.5epochs")
        3.0
        """
        reached, numerator, denominator = self._measured(duration)
        return reached * denominator / numerator

    def remaining_share(self, duration: str) -> float:
        """Return the share of a duration that is still to come, 0 to 1."""
        return max(0.0, 1.0 - self.elapsed(duration))

    def _measured(self, duration: str) -> tuple[int, int, int]:
        """(steps or samples so far, numerator and denominator of the duration in the same unit)."""
        parsed = _parse(duration)
        if parsed.unit == "steps":
            return self.step, parsed.amount.numerator, 1
        so_far = self.epoch * self.epoch_size + self.offset
        return so_far, parsed.amount.numerator * self.epoch_size, parsed.amount.denominator

    def counts(self) -> dict[str, Any]:
        """Return what every row of metrics.jsonl begins with."""
        return {
            "step": self.step,
            "epoch": self.epochs,
            "samples": self.samples,
            "gradients": self.gradients,
            "hvps": self.hvps,
        }

    def state_dict(self) -> dict[str, int]:
        """Return all counts."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Set all counts."""
        for field in fields(self):
            setattr(self, field.name, state[field.name])


class Every:
    """Says when a duration has passed once more; a multiple that lies at or before the start is not due again."""

    def __init__(self, duration: str, progress: Progress):
        self.progress = progress
        self.by_steps = _parse(duration).unit == "steps"
        _, self.numerator, self.denominator = progress._measured(duration)
        self._set_next()

    def _so_far(self) -> int:
        p = self.progress
        return p.step if self.by_steps else p.epoch * p.epoch_size + p.offset

    def _set_next(self) -> None:
        passed = self._so_far() * self.denominator // self.numerator
        self._next = -(-(passed + 1) * self.numerator // self.denominator)

    def due(self) -> bool:
        """Say whether another duration has been completed since this last said so."""
        if self._so_far() < self._next:
            return False
        self._set_next()
        return True
