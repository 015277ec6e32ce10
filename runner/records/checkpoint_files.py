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


class Store:
    """Writes a run's checkpoints and removes those that nobody asked to keep.

    A checkpoint is written to a temporary name, flushed to disk and read back before it takes the place of
    last.pt; the one that was last.pt becomes step-XXXXXXXX.pt.

    Args:
        folder: where they lie.
        last: how many of the newest are kept.
        last_step: the step of the last.pt that is there, if it can be read.
    """

    def __init__(self, folder: Path, last: int = 2, last_step: int | None = None):
        self.folder = folder
        self.last_step = last_step
        self._last = last
        self._can_be_loaded = False  # what an optimizer puts into a state; the first after a step tells

    def write(self, state: dict[str, Any]) -> None:
        """Writes a run's state as last.pt; the steps in state["record"]["kept"] are never removed."""
        step = state["progress"]["step"]
        last = self.folder / "last.pt"
        temporary = self._written(last, state)
        if self.last_step not in (None, step) and last.exists():
            os.replace(last, self.folder / f"step-{self.last_step:08d}.pt")
        os.replace(temporary, last)
        flush_folder(self.folder)
        self.last_step = step
        numbered = [(s, path) for s, path in by_step(self.folder) if s != step]
        for _, path in [entry for entry in numbered[self._last - 1 :] if entry[0] not in state["record"]["kept"]]:
            path.unlink()

    def write_best(self, state: dict[str, Any]) -> None:
        """Writes a run's state as best.pt."""
        best = self.folder / "best.pt"
        os.replace(self._written(best, state), best)
        flush_folder(self.folder)

    def _written(self, path: Path, state: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        temporary = write_temporary(path, buffer.getbuffer())
        try:
            if temporary.read_bytes() != buffer.getbuffer():
                raise OSError(f"{path}: does not read back as it was written")
            if not self._can_be_loaded:
                safe_load(temporary)
                self._can_be_loaded = state["progress"]["step"] > 0
        except (OSError, WeightsError) as error:
            temporary.unlink()
            if isinstance(error, OSError):
                raise
            raise TypeError("the state_dict of the optimizer must hold tensors and plain values") from error
        return temporary


@dataclass
class Found:
    """What a run's folder offers to go on from."""

    state: dict[str, Any] | None = None  # the newest that can be used
    name: str = ""  # of its file
    last_step: int | None = None  # the step of last.pt, where that can be used
    problems: list[str] = field(default_factory=list)  # a line for each file that cannot


def newest(folder: Path, metrics_bytes: int) -> Found:
    """Finds the newest state that a run can go on from.

    Args:
        folder: of the checkpoints.
        metrics_bytes: length of metrics.jsonl: a state that counts on more rows is of no use.

    Raises:
        UserError: a file asks for more than tensors and plain values to be read; or there are files, but none
            can be used.
    """
    found = Found()

    def consider(path: Path) -> int | None:
        """Takes the state if it is newer; returns its step."""
        try:
            state = read(path)
            if state["record"]["metrics_bytes"] > metrics_bytes:
                raise DamagedFile(f"{path}: counts on rows that metrics.jsonl lacks")
        except DamagedFile as error:
            found.problems.append(str(error))
            return None
        step = state["progress"]["step"]
        if found.state is None or step > found.state["progress"]["step"]:
            found.state, found.name = state, path.name
        return step

    if (folder / "last.pt").exists():
        found.last_step = consider(folder / "last.pt")
    if (folder / "best.pt").exists():
        consider(folder / "best.pt")
    for step, path in by_step(folder):
        if found.state is None or step > found.state["progress"]["step"]:
            consider(path)
    if found.problems and found.state is None:
        raise UserError(f"{found.problems[0]}; no checkpoint is left; remove {folder} to begin anew")
    return found


def read(path: Path) -> dict[str, Any]:
    """Returns the state in a checkpoint; nothing but tensors and plain values is ever unpickled.

    Raises:
        DamagedFile: it cannot be read, or is no checkpoint of a run.
        UserError: it is not there, or asks for more than tensors and plain values to be read.
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


def by_step(folder: Path) -> list[tuple[int, Path]]:
    """Returns (step, path) of the files step-XXXXXXXX.pt, newest first."""
    found = [(re.fullmatch(r"step-(\d+)\.pt", path.name), path) for path in folder.glob("step-*.pt")]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
