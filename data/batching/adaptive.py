"""Batches whose size, and learning rate, follow from what a probe measures during the run."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite
from typing import Any, NamedTuple, Protocol

from .constant import Changing
from .stages import Duration
from .stream import Position

KNOBS = ("size", "lr")


class Answer(NamedTuple):
    """What measures ask for, before any bound."""

    size: float
    lr_factor: float
    reason: str


class Progress(Protocol):
    """What a decision needs to know of a run."""

    step: int  # updates made
    repeat: int  # of these, on the batch at work; 0: it is used up

    @property
    def epochs(self) -> float:
        """Epochs so far."""

    def elapsed(self, duration: str) -> float:
        """Returns how many such durations have passed since the run began."""


class Controlled(Changing):
    """Batches whose size, and whose learning rate, are moved during a run; the base of those that decide how.

    After each update at which the probe measured, `measure` makes of its row some quantities x. They are smoothed
    with weights that fall off exponentially, and sum to 1 from the first on (Kingma and Ba 2015, section 3):

        m_t = smoothing * m_(t-1) + (1 - smoothing) * x_t        x = m_t / (1 - smoothing^t)

    Whenever `every` has passed once more, `answer` says of the smoothed ones which size and which factor on the
    learning rate they ask for. Both move by no more than the factor `factor` at a time and stay within their
    bounds; they hold from the next batch on (all repeats of a batch have the same), and then the average begins
    anew: what was measured with another size or rate is another quantity.

    Args:
        size: of the first batches.
        min_size: no batch is planned smaller.
        max_size: no batch is larger, but for a single sample that would else be left at the end of an epoch.
        adjust: what is moved: size, lr, or both.
        lr_bounds: lowest and highest factor on what the schedule says; it begins with 1.
        factor: the most that one decision multiplies or divides by, above 1.
        smoothing: in [0, 1); 0: the last measurement alone counts.
        every: a duration: how often there may be a decision, at the first measurement after it has passed.
        persistency: K, or K of each stage, as in `Batching`.
        drop_last: leave the smaller last batch of an epoch out.
        repeat_lr_factor: of the learning rate, from one update on a batch to the next.
        duration: of the run, where persistency has several stages.

    Attributes:
        needs_probe: name of the probe whose rows `observe` gets.
        reads: what of such a row is needed; a row where one is not finite is passed over.
        changes_lr: KEY=VALUE by which the learning rate is moved, or None.

    Raises:
        ValueError: sizes are not 1 <= min_size <= size <= max_size, the factor is not above 1, smoothing not in
            [0, 1), `adjust` names nothing or something else, or 1 is not within lr_bounds.
    """

    needs_probe = "fisher"
    reads: tuple[str, ...] = ()

    def __init__(
        self,
        size: int,
        min_size: int,
        max_size: int,
        adjust: Sequence[str] = ("size",),
        lr_bounds: Sequence[float] = (1.0, 1.0),
        factor: float = 2.0,
        smoothing: float = 0.9,
        every: str = "1epochs",
        persistency: int | Sequence[int] = 1,
        drop_last: bool = False,
        repeat_lr_factor: float = 1.0,
        duration: Duration | None = None,
    ):
        super().__init__(persistency, drop_last, repeat_lr_factor, duration)
        if not 1 <= min_size <= size <= max_size:
            raise ValueError(f"size={size}: must be between min_size={min_size} and max_size={max_size}, all >= 1")
        if not adjust or not set(adjust) <= set(KNOBS):
            raise ValueError(f"adjust={list(adjust)}: must be [size], [lr] or [size,lr]")
        low, high = lr_bounds
        if not 0 < low <= 1 <= high:
            raise ValueError(f"lr_bounds={list(lr_bounds)}: must be factors above 0, one up to 1 and one from 1 on")
        if not factor > 1:
            raise ValueError(f"factor={factor}: must be > 1")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing={smoothing}: must be in [0, 1)")
        self.smallest, self.largest = (min_size, max_size) if "size" in adjust else (size, size)
        self.lr_bounds = (low, high) if "lr" in adjust else (1.0, 1.0)
        self.adjust, self.factor = tuple(adjust), factor
        self.smoothing, self.every = smoothing, every
        self.changes_lr = f"adjust=[{','.join(adjust)}]" if "lr" in adjust else None
        self._now = self._before = (size, 1.0)  # size, and factor on the learning rate
        self._since = 0  # the step from which on batches begin with `_now`
        self._turn = 0  # how often `every` had passed when it was last decided
        self._sums: dict[str, float] = {}
        self._weight = 0.0

    @property
    def size(self) -> int:
        """Size of the batches to come."""
        return self._now[0]

    def measure(self, values: Mapping[str, Any], epochs: float) -> dict[str, float] | None:
        """Returns what a probe's row says, by name; None: nothing yet."""
        raise NotImplementedError

    def answer(self, measures: Mapping[str, float]) -> Answer:
        """Returns what smoothed measures ask for."""
        raise NotImplementedError

    def observe(self, values: Mapping[str, Any], progress: Progress) -> dict[str, Any] | None:
        """Takes note of what the probe measured at the last update, and decide if it is time to.

        Args:
            values: the probe's row.
            progress: of the run, after the update.

        Returns:
            What was decided, also where nothing changes: `batch_size` and `lr_factor`, both also as they were
            (`…_before`), the `reason` and the measures. None: it was not time to.
        """
        if any(values[name] is None or not isfinite(values[name]) for name in self.reads):
            return None
        found = self.measure(values, progress.epochs)
        if found is None:
            return None
        kept = self.smoothing
        self._sums = {name: kept * self._sums.get(name, 0.0) + (1 - kept) * x for name, x in found.items()}
        self._weight = kept * self._weight + (1 - kept)
        turn = floor(progress.elapsed(self.every))
        if turn <= self._turn:
            return None
        self._turn = turn
        measures = {name: total / self._weight for name, total in self._sums.items()}
        answer, before = self.answer(measures), self._now
        size, lr_factor = self._bounded(answer)
        if (size, lr_factor) != before:
            self._before = self._at(progress.step - progress.repeat)  # what the batch at work keeps
            self._now, self._since = (size, lr_factor), progress.step
            self._sums, self._weight = {}, 0.0
        return {
            "batch_size_before": before[0],
            "batch_size": size,
            "lr_factor_before": before[1],
            "lr_factor": lr_factor,
            "reason": answer.reason + self._held(answer, size, lr_factor),
            **measures,
        }

    def _bounded(self, answer: Answer) -> tuple[int, float]:
        size, lr = self._now
        lowest = max(self.smallest, ceil(size / self.factor))
        highest = min(self.largest, floor(size * self.factor))
        low, high = max(self.lr_bounds[0], lr / self.factor), min(self.lr_bounds[1], lr * self.factor)
        return round(between(answer.size, lowest, highest)), between(answer.lr_factor, low, high)

    def _held(self, answer: Answer, size: int, lr_factor: float) -> str:
        """Says what was asked for where a bound stood in its way."""
        wanted = [f"size {answer.size:.6g}"] * (abs(answer.size - size) > 0.5)
        wanted += [f"learning rate x {answer.lr_factor:.4g}"] * (answer.lr_factor != lr_factor)
        return f"; bounded, wanted {', '.join(wanted)}" if wanted else ""

    def _at(self, step: int) -> tuple[int, float]:
        return self._now if step >= self._since else self._before

    def size_at(self, begun: Position, epoch_size: int) -> int:
        """Returns the size of the batch that begins at a position: the one at work, or a later one."""
        return self._at(begun.step)[0]

    def lr_factor(self, begun: Position, epoch_size: int) -> float:
        """Returns what the learning rate of the batch that begins at a position is multiplied by."""
        return self._at(begun.step)[1]

    def describe(self) -> str:
        """Returns the sizes and when they change."""
        what = [f"{self.smallest} to {self.largest} images"] * ("size" in self.adjust)
        what += ["learning rate times {:g} to {:g}".format(*self.lr_bounds)] * ("lr" in self.adjust)
        return f"{self.size} images; decided every {self.every}, by probe {self.needs_probe}: {', '.join(what)}"

    def state_dict(self) -> dict[str, Any]:
        """Returns what was decided and what is being smoothed."""
        return {
            "now": list(self._now),
            "before": list(self._before),
            "since": self._since,
            "turn": self._turn,
            "sums": dict(self._sums),
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._now, self._before = tuple(state["now"]), tuple(state["before"])
        self._since, self._turn = state["since"], state["turn"]
        self._sums, self._weight = dict(state["sums"]), state["weight"]


def between(value: float, low: float, high: float) -> float:
    """Returns what is nearest to a value in [low, high]."""
    return min(max(value, low), high)
