"""A repulsive regularizer that takes its snapshots in the course of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from trainopt.models import DamagedFile
from trainopt.optimizers import CheckpointDistance

from ..records.checkpoint_files import read_checkpoint, weights_to_evaluate
from ..state.run import Run
from ..system.errors import UserError
from .snapshot_schedule import SnapshotSchedule


class ScheduledCheckpointDistance(CheckpointDistance):
    """`CheckpointDistance` that takes snapshots during a run, and stops repelling where the weights are far away.

        settle, until there is a reason  ->  snapshot, repel, until the distance is reached  ->  settle, ...

    Reasons for a snapshot are those of `SnapshotSchedule`. Without `until_distance` it never stops, and each reason
    adds a snapshot. Each change is a row of kind `event`. It works with batch reuse, compilation and any optimizer.

    Args:
        strength: s, while it repels.
        sigma, units, layers, keep: as in `CheckpointDistance`; `units` also of `until_distance`.
        at: durations from the start of the run. None: after half of the run, if there is no other reason.
        every, at_restarts, on_plateau, settle, times: as in `SnapshotSchedule`. Evaluations are not counted for
            `on_plateau` while it repels until a distance; snapshots from `files` are not counted for `times`.
        files: snapshots from other runs, present from the start: folders of runs (their last.pt) or checkpoints.
        until_distance: it stops repelling (the strength is 0) after the step with which every snapshot is so far away.
            None: it does not stop.

    Raises:
        ValueError: arguments contradict each other, and as in `CheckpointDistance`.
    """

    leaves_minima = True

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
            raise ValueError(f"settle={settle}: is a time after the distance is reached; give until_distance, too")
        if keep is not None and len(files) > keep:
            raise ValueError(f"keep={keep}: there are {len(files)} files; give at least as many, or null")
        has_other_reason = bool(every or at_restarts or on_plateau or files)
        if at is not None and not (at or has_other_reason):
            raise ValueError("at=[]: there is no reason to take a snapshot; give at, every, at_restarts, …")
        half_way = at is None and not has_other_reason
        self._schedule = SnapshotSchedule(at or (), half_way, every, at_restarts, on_plateau, settle, times)
        self.files = files
        self.until_distance = until_distance
        self._full_strength = strength

    @property
    def follows_duration(self) -> bool:  # type: ignore[override]
        """Whether it takes a snapshot after half of the run."""
        return self._schedule.half_way

    def begin(self, run: Run, params: Sequence[Tensor]) -> None:
        """Reads the files; UserError where one does not fit, or where a reason can never come."""
        self._schedule.begin(run)
        names = {id(p): name for name, p in run.network.named_parameters()}
        for file in self.files:
            self.snapshot(weights_in(file, {names[id(p)]: p for p in params}))

    def after_step(self, run: Run, params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Stops repelling where the weights are far away, takes a snapshot if there is a reason; returns the events."""
        events = []
        if self._is_far(params):
            nearest = self.distances(params).min().item()
            events.append({"event": "far enough", "nearest": nearest, "snapshots": len(self)})
            self.strength = 0.0
            self._schedule.note_escape(run)
        return [*events, *self._snapshot_for(self._schedule.after_step(run), run, params)]

    def after_evaluation(
        self, run: Run, params: Sequence[Tensor], rows: dict[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Takes a snapshot where the validation set shows no improvement; returns the events."""
        if self._repels_until_far:
            return []
        return self._snapshot_for(self._schedule.after_evaluation(rows), run, params)

    def report(self, params: Sequence[Tensor], value: Tensor) -> dict[str, Any]:
        """Returns the values of `CheckpointDistance.report`, the number of snapshots and the strength."""
        row = super().report(params, value)
        return {**row, "snapshots": len(self), "strength": self.strength} if row else {}

    def state_dict(self) -> dict[str, Any]:
        """Returns the snapshots, the strength, and the state of the schedule."""
        return {**super().state_dict(), **self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        super().load_state_dict(state)
        self._schedule.load_state_dict(state)

    @property
    def _repels_until_far(self) -> bool:
        return self.until_distance is not None and len(self) > 0 and self.strength > 0

    def _is_far(self, params: Sequence[Tensor]) -> bool:
        if self.until_distance is None or not self._repels_until_far:
            return False
        distances = self.distances(params)  # first: it moves the widths to the device of the parameters
        return bool((distances * self.sigma >= self.until_distance * self.widths).all())

    def _snapshot_for(self, reasons: list[str], run: Run, params: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Takes a snapshot if there is a reason, and returns the event."""
        if not reasons or self._schedule.is_exhausted:
            return []
        self.snapshot(params)
        self._schedule.count_snapshot(run)
        self.strength = self._full_strength
        return [{"event": "snapshot", "because": ", ".join(reasons), "snapshots": len(self)}]


def weights_in(file: str, params: dict[str, Tensor]) -> list[Tensor]:
    """Returns the values that parameters have in a checkpoint, or in the last one of a run's folder.

    Args:
        file: path of the checkpoint or folder.
        params: by name; the values get their device and dtype.

    Raises:
        UserError: it cannot be read, or one is missing or of another shape.
    """
    path = Path(file)
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    try:
        weights = weights_to_evaluate(read_checkpoint(path))
    except (DamagedFile, UserError) as error:
        raise UserError(f"files: {error}") from error
    for name, param in params.items():
        shape = list(param.shape)
        if name not in weights:
            raise UserError(f"files: {path}: {name} is missing, and must be of shape {shape}")
        if weights[name].shape != param.shape:
            raise UserError(
                f"files: {path}: {name} is of shape {list(weights[name].shape)}, and must be of shape {shape}"
            )
    return [weights[name].to(param) for name, param in params.items()]
