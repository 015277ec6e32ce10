"""When snapshots are taken that the weights are pushed away from, and when a push ends."""

from collections.abc import Sequence
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainopt.models import DamagedFile
from trainopt.optimizers import CheckpointDistance

from ..records.checkpoint_files import read_checkpoint
from ..state.early_stopping import EarlyStopping
from ..system.errors import UserError

if TYPE_CHECKING:
    from ..state.run import Run

ROUNDING = 1e-9  # of a duration: so close to its end, it has passed


class ScheduledCheckpointDistance(CheckpointDistance):
    """`CheckpointDistance` that takes its snapshots in the course of a run, and lets go once it is far away.

        settle, until an occasion  ->  snapshot, push, until the distance is reached  ->  settle, ...

    Occasions are given times, restarts of the schedule, and validation that no longer improves. Without
    `until_distance` the push never ends, and an occasion adds a snapshot to it. Each change is a row of kind
    `event`. With persistency, compilation and any optimizer it is a term of the loss like others.

    Args:
        strength: s, while it pushes.
        sigma: as in `CheckpointDistance`, and so are units, layers and keep.
        units: also of `until_distance`.
        layers: as there.
        keep: as there.
        at: durations from the start of the run. None: at half of the run, if nothing else says when.
        every: a duration: whenever it has passed once more.
        at_restarts: when the schedule begins a new cycle.
        on_plateau: evaluations without an improvement on the held-out images, as early stopping counts them
            (`early_stopping.metric` and `min_delta`); counted anew after each snapshot, and not during a push
            that is to end.
        files: snapshots from other runs, there from the start: folders of runs (their last.pt) or checkpoints.
        until_distance: a push ends (the strength is 0) after the step that has left every snapshot that is kept so
            far behind. None: it does not end.
        settle: a duration: so long after the end of a push the next snapshot is taken. None: not for that reason.
        times: take at most so many snapshots, files not counted. None: any number.

    Raises:
        ValueError: arguments that cannot go together, and what `CheckpointDistance` refuses.
    """

    def __init__(
        self,
        strength: float = 1.0,
        sigma: float = 1.0,
        units: str = "absolute",
        layers: str = "all",
        keep: int | None = 5,
        at: Sequence[str] | None = None,
        every: str | None = None,
        at_restarts: bool = False,
        on_plateau: int | None = None,
        files: Sequence[str] = (),
        until_distance: float | None = None,
        settle: str | None = None,
        times: int | None = None,
    ):
        super().__init__(strength, sigma, units, layers, keep)
        if settle is not None and until_distance is None:
            raise ValueError(f"settle={settle}: follows a push that ends; give until_distance, too")
        if keep is not None and len(files) > keep:
            raise ValueError(f"keep={keep}: there are {len(files)} files; keep as many, or null")
        if at is not None and not (at or every or at_restarts or on_plateau or files):
            raise ValueError("at=[]: nothing else says when to take a snapshot; give at, every, at_restarts, …")
        self.at = at
        self.every = every
        self.at_restarts = at_restarts
        self.on_plateau = on_plateau
        self.files = files
        self.until_distance = until_distance
        self.settle = settle
        self.times = times
        self._full = strength
        self._taken = 0
        self._seen: dict[str, int] = {}  # how many occasions of each kind there were
        self._ended: float | None = None  # when the last push did, in durations `settle`
        self._plateau = EarlyStopping()

    def begin(self, run: "Run", params: Sequence[Tensor]) -> None:
        """Checks that what decides is there, and read the files; UserError where one does not fit."""
        if self.at_restarts and run.schedule.cycles() is None:
            raise UserError("at_restarts=true: needs a schedule that restarts, as schedule=cosine_restarts")
        if self.on_plateau is not None and "validation" not in run.evaluation_sets:
            raise UserError(
                f"on_plateau={self.on_plateau}: needs held-out images to look at, as with data.validation=0.1"
            )
        self._plateau = self._new_plateau(run)
        names = {id(p): name for name, p in run.network.named_parameters()}
        for file in self.files:
            self.snapshot(weights_in(file, {names[id(p)]: p for p in params}))

    def after_step(self, run: "Run", params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Lets go where it is far enough, and take a snapshot where there is an occasion; returns the events."""
        events = []
        if self._is_far(params):
            nearest = self.distances(params).min().item()
            events.append({"event": "far enough", "nearest": nearest, "snapshots": len(self)})
            self.strength = 0.0
            self._ended = None if self.settle is None else run.progress.elapsed(self.settle)
            self._plateau = self._new_plateau(run)
        occasions = self._occasions(run)
        new = [why for why, count in occasions.items() if count > self._seen.get(why, 0)]
        self._seen = occasions
        if self._has_settled(run):
            new.append("settled")
        return [*events, *self._taken_for(new, run, params)]

    def after_evaluation(
        self, run: "Run", params: Sequence[Tensor], rows: dict[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Takes a snapshot where the held-out images show no gain; returns the events."""
        if self._pushes_until_far:
            return []
        self._plateau.observe(rows)
        return self._taken_for(["plateau"] if self._plateau.ends else [], run, params)

    def report(self, params: Sequence[Tensor], value: Tensor) -> dict[str, Any]:
        """Returns the figures of `CheckpointDistance.report`, the number of snapshots and the strength."""
        row = super().report(params, value)
        return {**row, "snapshots": len(self), "strength": self.strength} if row else {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the snapshots, and where in its course it is."""
        return {
            **super().state_dict(),
            "taken": self._taken,
            "seen": dict(self._seen),
            "ended": self._ended,
            "plateau": self._plateau.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        super().load_state_dict(state)
        self._taken, self._seen, self._ended = state["taken"], dict(state["seen"]), state["ended"]
        self._plateau.load_state_dict(state["plateau"])

    @property
    def _pushes_until_far(self) -> bool:
        return self.until_distance is not None and len(self) > 0 and self.strength > 0

    def _is_far(self, params: Sequence[Tensor]) -> bool:
        if self.until_distance is None or not self._pushes_until_far:
            return False
        distances = self.distances(params)  # first: it moves the widths to where the parameters are
        return bool((distances * self.sigma >= self.until_distance * self.widths).all())

    def _has_settled(self, run: "Run") -> bool:
        if self.settle is None or self._ended is None:
            return False
        return run.progress.elapsed(self.settle) - self._ended >= 1 - ROUNDING

    def _occasions(self, run: "Run") -> dict[str, int]:
        """Returns how many there were of each kind, as functions of the run's progress."""
        elapsed = run.progress.elapsed
        found = {}
        if self.at is not None:
            found["at"] = sum(elapsed(duration) >= 1 for duration in self.at)
        elif not (self.every or self.at_restarts or self.on_plateau or self.files):
            found["half of the run"] = int(elapsed(run.duration) >= 1 / 2)
        if self.every is not None:
            found["every"] = floor(elapsed(self.every))
        if self.at_restarts:
            found["restart"] = run.cycles
        return found

    def _taken_for(self, reasons: list[str], run: "Run", params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Takes a snapshot if there is a reason, and returns the event."""
        if not reasons or self._taken == self.times:
            return []
        self.snapshot(params)
        self._taken += 1
        self.strength, self._ended = self._full, None
        self._plateau = self._new_plateau(run)
        return [{"event": "snapshot", "because": ", ".join(reasons), "snapshots": len(self)}]

    def _new_plateau(self, run: "Run") -> EarlyStopping:
        like = run.early_stopping
        return EarlyStopping(self.on_plateau, like.min_delta, like.metric)


def weights_in(file: str, params: dict[str, Tensor]) -> list[Tensor]:
    """Returns those parameters, given by name, as they are in a checkpoint, or the last one of a run's folder.

    Raises:
        UserError: it cannot be read, or holds others.
    """
    path = Path(file)
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    try:
        weights = read_checkpoint(path)["model"]
    except (DamagedFile, UserError) as error:
        raise UserError(f"files: {error}") from error
    found = []
    for name, param in params.items():
        if name not in weights or weights[name].shape != param.shape:
            there = f"of shape {list(weights[name].shape)}" if name in weights else "missing"
            raise UserError(f"files: {path}: {name} is {there}, and must be of shape {list(param.shape)}")
        found.append(weights[name].to(param))
    return found
