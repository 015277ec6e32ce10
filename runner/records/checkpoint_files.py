"""The checkpoints of a run on disk: last.pt, best.pt and step-XXXXXXXX.pt."""

import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainopt.models import DamagedFile, WeightsError, safe_load

from ..system.errors import UserError
from ..system.files import flush_folder, write_temporary


class CheckpointStore:
    """Writes a run's checkpoints and removes old ones.

    A checkpoint is written to a temporary name, flushed to disk and read back before it takes the place of
    last.pt; the file that was last.pt becomes step-XXXXXXXX.pt.

    Args:
        folder: of the checkpoints.
        last: how many of the newest are kept.
        last_step: the step of the present last.pt, if it can be read.
    """

    def __init__(self, folder: Path, last: int = 2, last_step: int | None = None):
        self.folder = folder
        self.last_step = last_step
        self._last = last
        self._loads = False  # whether a state with an optimizer's buffers, so one after a step, was read back

    def write(self, state: dict[str, Any]) -> None:
        """Writes a run's state as last.pt; the steps in state["record"]["kept"] are never removed."""
        step = state["progress"]["step"]
        last = self.folder / "last.pt"
        temporary = self._write_verified(last, state)
        if self.last_step not in (None, step) and last.exists():
            os.replace(last, self.folder / f"step-{self.last_step:08d}.pt")
        os.replace(temporary, last)
        flush_folder(self.folder)
        self.last_step = step
        older = [(s, path) for s, path in numbered_checkpoints(self.folder) if s != step]
        for _, path in [entry for entry in older[self._last - 1 :] if entry[0] not in state["record"]["kept"]]:
            path.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        """Writes a run's state as best.pt."""
        best = self.folder / "best.pt"
        os.replace(self._write_verified(best, state), best)
        flush_folder(self.folder)

    def _write_verified(self, path: Path, state: dict[str, Any]) -> Path:
        """Writes a state beside `path` and reads it back; returns where."""
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        temporary = write_temporary(path, buffer.getbuffer())
        try:
            if temporary.read_bytes() != buffer.getbuffer():
                raise OSError(f"{path}: does not read back as it was written")
            if not self._loads:
                safe_load(temporary)
                self._loads = state["progress"]["step"] > 0
        except (OSError, WeightsError) as error:
            temporary.unlink()
            if isinstance(error, OSError):
                raise
            raise TypeError("the state_dict of the optimizer must hold tensors and plain values") from error
        return temporary


@dataclass
class ResumePoint:
    """The newest state that a run can continue from.

    Attributes:
        state: of the run; None where there is no checkpoint.
        name: of its file.
        last_step: the step of last.pt, where that can be used.
        problems: a line for each file that cannot be used.
    """

    state: dict[str, Any] | None = None
    name: str = ""
    last_step: int | None = None
    problems: list[str] = field(default_factory=list)


def find_resume_point(folder: Path, metrics_bytes: int) -> ResumePoint:
    """Returns the newest state that a run can continue from.

    Args:
        folder: of the checkpoints.
        metrics_bytes: length of metrics.jsonl: a state that belongs to more records cannot be used.

    Raises:
        UserError: a file asks for more than tensors and plain values to be read; or there are files, but none
            can be used.
    """
    point = ResumePoint()

    def consider(path: Path) -> int | None:
        """Takes the state if it is newer; returns its step."""
        try:
            state = read_checkpoint(path)
            if state["record"]["metrics_bytes"] > metrics_bytes:
                raise DamagedFile(f"{path}: belongs to records that metrics.jsonl lacks")
        except DamagedFile as error:
            point.problems.append(str(error))
            return None
        step = state["progress"]["step"]
        if point.state is None or step > point.state["progress"]["step"]:
            point.state, point.name = state, path.name
        return step

    if (folder / "last.pt").exists():
        point.last_step = consider(folder / "last.pt")
    if (folder / "best.pt").exists():
        consider(folder / "best.pt")
    for step, path in numbered_checkpoints(folder):
        if point.state is None or step > point.state["progress"]["step"]:
            consider(path)
    if point.problems and point.state is None:
        raise UserError(f"{point.problems[0]}; no checkpoint is left; remove {folder} to begin anew")
    return point


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the state in a checkpoint; only tensors and plain values are ever unpickled.

    Raises:
        DamagedFile: the file cannot be read, or is no checkpoint of a run.
        UserError: it is missing, or asks for more than tensors and plain values to be read.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        state = safe_load(path)
    except DamagedFile:
        raise
    except WeightsError as error:
        raise UserError(str(error)) from error
    if not isinstance(state, dict) or not {"model", "optimizer", "progress", "record"} <= set(state):
        raise DamagedFile(f"{path}: is no checkpoint of a run")
    return state


def weights_to_evaluate(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Returns the network's state in a checkpoint: the average of the weights where it has one, else the weights."""
    return state["averaging"]["model"] if holds_average(state) else state["model"]


def holds_average(state: dict[str, Any]) -> bool:
    """Returns whether a checkpoint has an average of the weights, beside those that are trained."""
    return "model" in state.get("averaging", {})


def numbered_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Returns (step, path) of the files step-XXXXXXXX.pt, newest first."""
    names = [(re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(match[1]), path) for match, path in names if match), reverse=True)
