"""Batches whose size and learning rate follow from what a probe measures during the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite
from typing import Any, ClassVar, NamedTuple

from .base import VariableBatchSize
from .protocols import Position, Progress

ADJUSTABLE = ("size", "lr")


class Proposal(NamedTuple):
    """Size and factor on the learning rate that measurements suggest, before any bound, and why."""

    size: float
    lr_factor: float
    reason: str


@dataclass(kw_only=True, eq=False)
class AdaptiveBatchSize(VariableBatchSize):
    """Batch size and learning rate are adjusted during a run; the base of the rules that do so.

    After each update at which the probe measured, `measure` computes some quantities x from its row. They are
    smoothed by a bias-corrected exponential moving average (Kingma and Ba 2015, section 3):

        m_t = smoothing * m_(t-1) + (1 - smoothing) * x_t        x = m_t / (1 - smoothing^t)

    Whenever `every` has passed once more, `propose` returns the size and the factor on the learning rate that the
    smoothed quantities suggest. Both change by at most `factor` at a time and stay within their bounds. A change
    holds from the next batch on (all updates on a batch have the same), and restarts the average: what was measured
    at another size or learning rate is another quantity.

    Args:
        size: of the first batches.
        min_size: lower bound of the size.
        max_size: upper bound of the size; only a single sample that remains at the end of an epoch is added to it.
        adjust: what is adjusted: size, lr, or both.
        lr_bounds: bounds of the factor on the schedule's learning rate, which begins with 1.
        factor: largest change in one decision, above 1: values are at most multiplied or divided by it.
        smoothing: weight of the past in the moving average, in [0, 1); 0: the last measurement alone counts.
        every: a duration: the time between decisions. Each is made at the first measurement after it has passed.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.

    Attributes:
        size: of the batches to come.
        lr_scale: the factor on the learning rate of the batches to come.
        needs_probe: name of the probe whose rows `observe` gets.
        reads: names of the values that it needs of such a row; a row where one is not finite is skipped.
        changes_lr: KEY=VALUE by which the learning rate is adjusted, or None.

    Raises:
        ValueError: sizes are not 1 <= min_size <= size <= max_size, the factor is not above 1, smoothing not in
            [0, 1), `adjust` names nothing or something else, or 1 is not within lr_bounds.
    """

    needs_probe: ClassVar[str] = "fisher"
    reads: ClassVar[tuple[str, ...]] = ()

    size: int = 32
    min_size: int = 8
    max_size: int = 512
    adjust: Sequence[str] = ("size",)
    lr_bounds: Sequence[float] = (1.0, 1.0)
    factor: float = 2.0
    smoothing: float = 0.9
    every: str = "1epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        size, lowest, highest = self.size, self.min_size, self.max_size
        if not 1 <= lowest <= size <= highest:
            raise ValueError(f"size={size}: must be between min_size={lowest} and max_size={highest}, all >= 1")
        if not self.adjust or not set(self.adjust) <= set(ADJUSTABLE):
            raise ValueError(f"adjust={list(self.adjust)}: must be [size], [lr] or [size,lr]")
        if len(self.lr_bounds) != 2 or not 0 < self.lr_bounds[0] <= 1 <= self.lr_bounds[1]:
            raise ValueError(f"lr_bounds={list(self.lr_bounds)}: must be factors > 0, the first <= 1, the second >= 1")
        if not self.factor > 1:
            raise ValueError(f"factor={self.factor}: must be > 1")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing={self.smoothing}: must be in [0, 1)")
        self.smallest, self.largest = (lowest, highest) if "size" in self.adjust else (size, size)
        if "lr" not in self.adjust:
            self.lr_bounds = (1.0, 1.0)
        self.changes_lr = f"adjust=[{','.join(self.adjust)}]" if "lr" in self.adjust else None
        self.lr_scale = 1.0
        self._previous = (size, 1.0)  # size and factor before the last change
        self._changed_at = 0  # the step of the last change
        self._decisions = 0  # how often `every` had passed at the last decision
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float] | None:
        """Returns quantities by name, computed from a probe's row; None: nothing yet."""
        raise NotImplementedError

    def propose(self, measures: Mapping[str, float]) -> Proposal:
        """Returns the size and the factor on the learning rate that smoothed quantities suggest."""
        raise NotImplementedError

    def observe(self, values: Mapping[str, Any], progress: Progress) -> dict[str, Any] | None:
        """Takes in what the probe measured at the last update, and decides if it is time to.

        Args:
            values: the probe's row.
            progress: of the run, after the update.

        Returns:
            The decision, also where nothing changes: `batch_size` and `lr_factor`, each also before it (`…_before`),
            the `reason` and the smoothed quantities. None: it was not time to decide.
        """
        if any(values[name] is None or not isfinite(values[name]) for name in self.reads):
            return None
        measures = self.measure(values, progress.epochs)
        if measures is None:
            return None
        self._add(measures)
        decisions = floor(progress.elapsed(self.every))
        if decisions <= self._decisions:
            return None
        self._decisions = decisions
        measures = {name: total / self._weight for name, total in self._sums.items()}
        proposal = self.propose(measures)
        size, lr_scale = self._within_bounds(proposal)
        decision = {
            "batch_size_before": self.size,
            "batch_size": size,
            "lr_factor_before": self.lr_scale,
            "lr_factor": lr_scale,
            "reason": proposal.reason + _clamped(proposal, size, lr_scale),
            **measures,
        }
        if (size, lr_scale) != (self.size, self.lr_scale):
            self._previous = self._at(progress.step - progress.repeat)  # the current batch stays as it is
            self.size, self.lr_scale, self._changed_at = size, lr_scale, progress.step
            self._sums, self._weight = {}, 0.0
        return decision

    def _add(self, measures: Mapping[str, float]) -> None:
        """Adds a measurement to the moving average."""
        past = self.smoothing
        self._sums = {name: past * self._sums.get(name, 0.0) + (1 - past) * x for name, x in measures.items()}
        self._weight = past * self._weight + (1 - past)

    def _within_bounds(self, proposal: Proposal) -> tuple[int, float]:
        """Returns size and factor on the learning rate, by at most `factor` from the current ones."""
        lowest = max(self.smallest, ceil(self.size / self.factor))
        highest = min(self.largest, floor(self.size * self.factor))
        low = max(self.lr_bounds[0], self.lr_scale / self.factor)
        high = min(self.lr_bounds[1], self.lr_scale * self.factor)
        return round(clamp(proposal.size, lowest, highest)), clamp(proposal.lr_factor, low, high)

    def _at(self, step: int) -> tuple[int, float]:
        return (self.size, self.lr_scale) if step >= self._changed_at else self._previous

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position: the current one, or a later one."""
        return self._at(begun.step)[0]

    def lr_factor(self, begun: Position, epoch_size: int) -> float:
        """Returns the factor on the learning rate of the batch that begins at a position."""
        return self._at(begun.step)[1]

    def describe(self) -> str:
        """Returns the sizes and when they change."""
        bounds = [f"{self.smallest} to {self.largest} images"] * ("size" in self.adjust)
        bounds += ["learning rate times {:g} to {:g}".format(*self.lr_bounds)] * ("lr" in self.adjust)
        return f"{self.size} images; decided every {self.every}, by probe {self.needs_probe}: {', '.join(bounds)}"

    def state_dict(self) -> dict[str, Any]:
        """Returns the last change, and the moving average."""
        return {
            "now": [self.size, self.lr_scale],
            "before": list(self._previous),
            "since": self._changed_at,
            "turn": self._decisions,
            "sums": dict(self._sums),
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        (self.size, self.lr_scale), self._previous = state["now"], tuple(state["before"])
        self._changed_at, self._decisions = state["since"], state["turn"]
        self._sums, self._weight = dict(state["sums"]), state["weight"]


def clamp(value: float, low: float, high: float) -> float:
    """Returns the value nearest to `value` in [low, high]."""
    return min(max(value, low), high)


def _clamped(proposal: Proposal, size: int, lr_factor: float) -> str:
    """Returns what was proposed, as text, where a bound changed it."""
    parts = [f"size {proposal.size:.6g}"] * (abs(proposal.size - size) > 0.5)
    parts += [f"learning rate x {proposal.lr_factor:.4g}"] * (proposal.lr_factor != lr_factor)
    return f"; clamped, proposed was {', '.join(parts)}" if parts else ""
