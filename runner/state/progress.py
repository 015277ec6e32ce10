"""The progress of a run: counts, position in the data, and what is due."""

import sys
from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any

from ..config.durations import Duration

if TYPE_CHECKING:  # a comparison of runs counts products without importing torch
    from trainopt.data import Batch

HVP_COST = 2  # of a Hessian-vector product, in gradients: two forward and backward passes

COUNTS = {"steps": "step", "epochs": "samples_passed", "seconds": "nanoseconds"}  # by unit of durations
_parse = cache(Duration.parse)


@dataclass(slots=True)
class Progress:
    """The counts of a run; part of its checkpoints.

    `epoch`, `offset` and `repeat` are the position in the data, the other counts are the cost so far.
    """

    epoch_size: int  # samples an epoch
    step: int = 0  # updates
    epoch: int = 0  # complete epochs
    offset: int = 0  # samples of the current epoch that are used up
    repeat: int = 0  # updates on the current batch
    epoch_step: int = 0  # updates in the current epoch
    samples: int = 0  # of all updates
    gradients: int = 0  # evaluations of the gradient on a whole batch
    hvps: int = 0  # Hessian-vector products
    beside_gradients: float = 0.0  # cost of products and other evaluations of the loss, in gradients
    samples_passed: int = 0  # as `samples`, but a batch that is reused counts once
    nanoseconds: int = 0  # of the clock `train`, where the run ends by it
    evaluation_due: bool = True  # at this step: before the first, or where a signal ended an evaluation early
    checkpoint_due: bool = False  # at this step, by checkpoint_every: after an evaluation

    @property
    def epochs(self) -> float:
        """Epochs so far, with the current one as a fraction."""
        return self.epoch + self.offset / self.epoch_size

    def advance(self, batch: "Batch") -> None:
        """Counts an update on a batch."""
        before = self.epoch
        self.epoch, self.offset, self.repeat, self.step = epoch, offset, _, _ = batch.after
        self.epoch_step = self.epoch_step + 1 if epoch == before else 0
        self.samples_passed = epoch * self.epoch_size + offset

    def count_products(self, last_step: Mapping[str, Any]) -> None:
        """Counts the Hessian-vector products of a step, and their cost.

        Args:
            last_step: as of `Optimizer`: `hvps` are the products, `gradient_equivalents` the cost of the step beside
                its gradient, in gradients: by default HVP_COST for each product.
        """
        if not last_step:
            return
        products = last_step.get("hvps", 0)
        self.hvps += products
        self.beside_gradients += last_step.get("gradient_equivalents", HVP_COST * products)

    def elapsed(self, duration: str) -> float:
        """Returns how many such durations, as `0.05epochs` or `300steps`, have passed since the run began.

        A time, as `10min`, passes only in runs that end by one.

        >>> Progress(epoch_size=100, samples_passed=150).elapsed("0.5epochs")
        3.0
        """
        reached, numerator, denominator = self.measured(duration)
        return reached * denominator / numerator

    def measured(self, duration: str) -> tuple[int, int, int]:
        """Returns one of COUNTS, and the numerator and denominator of a duration in the unit of that count."""
        unit, amount = _parse(duration).unit, _parse(duration).amount
        size = {"steps": 1, "epochs": self.epoch_size, "seconds": 10**9}[unit]
        return getattr(self, COUNTS[unit]), amount.numerator * size, amount.denominator

    def counts(self) -> dict[str, Any]:
        """Returns the counts that every row of metrics.jsonl begins with."""
        return {
            "step": self.step,
            "epoch": self.epochs,
            "samples": self.samples,
            "gradients": self.gradients,
            "hvps": self.hvps,
            "gradient_equivalents": self.gradients + self.beside_gradients,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns all counts; without the time of a run that does not end by it, and a checkpoint that is not due."""
        return {k: v for k, v in asdict(self).items() if v or k not in ("nanoseconds", "checkpoint_due")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets all counts."""
        for field in fields(self):
            if field.name in state or field.default is MISSING:
                setattr(self, field.name, state[field.name])


class Agenda:
    """Returns what is due: each of several durations, whenever it has passed once more.

    A multiple that lies at or before the start is not due again, so that a resumed run does nothing twice.

    >>> progress = Progress(epoch_size=100)
    >>> agenda = Agenda(progress, log="2steps", evaluate="0.5epochs")
    >>> progress.step, progress.samples_passed = 2, 60
    >>> sorted(agenda.due())
    ['evaluate', 'log']
    >>> sorted(agenda.due())
    []
    """

    def __init__(self, progress: Progress, **durations: str):
        self.progress = progress
        self.durations = durations
        self._next = {name: self._next_multiple(name) for name in durations}
        self._set_thresholds()

    def due(self) -> Collection[str]:
        """Returns the names of the durations that were completed since the last call."""
        p, first = self.progress, self._first
        if (
            p.step < first["step"]
            and p.samples_passed < first["samples_passed"]
            and p.nanoseconds < first["nanoseconds"]
        ):
            return ()
        names = [name for name, (count, limit) in self._next.items() if getattr(p, count) >= limit]
        for name in names:
            self._next[name] = self._next_multiple(name)
        self._set_thresholds()
        return names

    def _next_multiple(self, name: str) -> tuple[str, int]:
        """Returns which of COUNTS a duration is measured by, and the next value at which it is complete."""
        so_far, numerator, denominator = self.progress.measured(self.durations[name])
        passed = so_far * denominator // numerator
        limit = -(-(passed + 1) * numerator // denominator)
        return COUNTS[_parse(self.durations[name]).unit], limit

    def _set_thresholds(self) -> None:
        self._first = dict.fromkeys(COUNTS.values(), sys.maxsize)
        for count, limit in self._next.values():
            self._first[count] = min(self._first[count], limit)
