"""When snapshots of the weights are taken in the course of a run."""

from collections.abc import Sequence
from math import floor
from typing import Any

from ..state.early_stopping import EarlyStopping
from ..state.run import Run
from ..system.errors import UserError

ROUNDING = 1e-9  # of a duration: so close to its end, it has passed


class SnapshotSchedule:
    """Reasons to take a snapshot: given times, restarts, validation that no longer improves, time after an escape.

    Args:
        at: durations from the start of the run.
        half_way: after half of the run.
        every: a duration: whenever it has passed once more.
        at_restarts: when the schedule of the learning rate begins a new cycle.
        on_plateau: evaluations without an improvement on the validation set, as early stopping counts them; they are
            counted anew after each snapshot.
        settle: a duration: so long after an escape. None: not for that reason.
        times: at most so many snapshots. None: any number.
    """

    def __init__(
        self,
        at: Sequence[str] = (),
        half_way: bool = False,
        every: str | None = None,
        at_restarts: bool = False,
        on_plateau: int | None = None,
        settle: str | None = None,
        times: int | None = None,
    ):
        self.at = at
        self.half_way = half_way
        self.every = every
        self.at_restarts = at_restarts
        self.on_plateau = on_plateau
        self.settle = settle
        self.times = times
        self._taken = 0
        self._counts: dict[str, int] = {}  # how often there was each reason
        self._escaped: float | None = None  # when the last escape was, in durations `settle`
        self._plateau = EarlyStopping()

    def begin(self, run: Run) -> None:
        """Prepares for a run; UserError where a reason can never come."""
        if self.at_restarts and run.schedule.cycles() is None:
            raise UserError("at_restarts=true: needs a schedule that restarts, as schedule=cosine_restarts")
        if self.on_plateau is not None and "validation" not in run.evaluation_sets:
            raise UserError(f"on_plateau={self.on_plateau}: needs a validation set, as with data.validation=0.1")
        self._watch_for_plateau(run)

    def after_step(self, run: Run) -> list[str]:
        """Returns the reasons that a step brings."""
        counts = self._count(run)
        reasons = [reason for reason, count in counts.items() if count > self._counts.get(reason, 0)]
        self._counts = counts
        return [*reasons, "settled"] if self._has_settled(run) else reasons

    def after_evaluation(self, rows: dict[str, dict[str, Any]]) -> list[str]:
        """Returns the reasons that an evaluation brings."""
        self._plateau.observe(rows)
        return ["plateau"] if self._plateau.ends else []

    @property
    def is_exhausted(self) -> bool:
        """Whether `times` snapshots were taken."""
        return self._taken == self.times

    def count_snapshot(self, run: Run) -> None:
        """Counts a snapshot; evaluations without an improvement are counted anew."""
        self._taken, self._escaped = self._taken + 1, None
        self._watch_for_plateau(run)

    def note_escape(self, run: Run) -> None:
        """Begins to wait for `settle`; evaluations without an improvement are counted anew."""
        self._escaped = None if self.settle is None else run.progress.elapsed(self.settle)
        self._watch_for_plateau(run)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the next reasons depend on."""
        return {
            "taken": self._taken,
            "seen": dict(self._counts),
            "ended": self._escaped,
            "plateau": self._plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._taken, self._counts, self._escaped = state["taken"], dict(state["seen"]), state["ended"]
        self._plateau.load_state_dict(state["plateau"])

    def _count(self, run: Run) -> dict[str, int]:
        """Returns how often there was each reason so far, as functions of the run's progress."""
        elapsed = run.progress.elapsed
        counts = {}
        if self.at:
            counts["at"] = sum(elapsed(duration) >= 1 for duration in self.at)
        if self.half_way:
            counts["half of the run"] = int(elapsed(run.duration) >= 1 / 2)
        if self.every is not None:
            counts["every"] = floor(elapsed(self.every))
        if self.at_restarts:
            counts["restart"] = run.cycles
        return counts

    def _has_settled(self, run: Run) -> bool:
        if self.settle is None or self._escaped is None:
            return False
        return run.progress.elapsed(self.settle) - self._escaped >= 1 - ROUNDING

    def _watch_for_plateau(self, run: Run) -> None:
        like = run.early_stopping
        self._plateau = EarlyStopping(self.on_plateau, like.min_delta, like.selection)
