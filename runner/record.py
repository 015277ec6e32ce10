"""What a run leaves in its folder: run.yaml, environment.json, metrics.jsonl, summary.json, checkpoints."""

import json
import math
import os
from pathlib import Path
from typing import Any

from . import checkpoint
from .build import Run
from .device import peak_memory

FINAL = ("loss", "top1", "top5")


class Record:
    """The files of one run. Rows are appended and flushed; the summary is rewritten whole.

    Args:
        folder: the run's.
        constants: what every summary says, as fingerprint and seed.
        selection: the kind of row that best figures are taken from, `validation` or `test`.
        logger: gets every row too, or None.
    """

    def __init__(self, folder: Path, constants: dict[str, Any], selection: str, logger: Any = None):
        self.folder = folder
        self.selection = selection
        self.logger = logger
        self.last_train_row: dict[str, Any] = {}
        self._constants = constants
        self._best: dict[str, Any] = {"best_top1": None, "lowest_loss": None, "final": None}
        self._improved = False
        self._metrics = open(folder / "metrics.jsonl", "ab")  # noqa: SIM115 - closed by close()

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def trained(self, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Write a row about the last update."""
        self.last_train_row = row
        self._write({"kind": "train", **counts, "train_seconds": train_seconds, **row})

    def evaluated(self, kind: str, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Write a row of figures on the test or the validation set, and note the best so far."""
        self._write({"kind": kind, **counts, "train_seconds": train_seconds, **row})
        if kind == "test":
            self._best["final"] = {key: row[key] for key in FINAL}
        if kind == self.selection:
            where = {"step": counts["step"], "epoch": counts["epoch"], "train_seconds": train_seconds}
            for name, key, sign in (("best_top1", "top1", 1), ("lowest_loss", "loss", -1)):
                best = self._best[name]
                if best is None or sign * row[key] > sign * best["value"]:
                    self._best[name] = {"value": row[key], **where}
                    self._improved |= name == "best_top1"

    def keep_best(self, run: Run) -> None:
        """Write best.pt if the last evaluation was the best so far, and the summary."""
        if self._improved:
            with run.clocks.running("checkpoint"):
                state = {"model": run.network.state_dict(), "progress": run.progress.state_dict()}
                checkpoint.save(self._checkpoints / "best.pt", state)
            self._improved = False
        self.summarise(run, "running")
        if self.logger is not None:
            self.logger.flush()

    def checkpoint(self, run: Run) -> None:
        """Write last.pt, with how much of metrics.jsonl belongs to it."""
        state = checkpoint.state_of(run)
        state["record"] = {**self._best, "metrics_bytes": self._metrics.tell()}
        os.fsync(self._metrics.fileno())
        checkpoint.save(self._checkpoints / "last.pt", state)

    def resume(self, state: dict[str, Any]) -> None:
        """Cut metrics.jsonl back to the checkpoint that the run goes on from."""
        record = state["record"]
        self._metrics.truncate(record["metrics_bytes"])
        self._metrics.seek(record["metrics_bytes"])
        self._best = {name: record[name] for name in self._best}

    def summarise(self, run: Run, status: str, **more: Any) -> dict[str, Any]:
        """Write summary.json and return it."""
        summary = {
            "status": status,
            **{k: v for k, v in run.progress.counts().items() if k not in ("step", "epoch")},
            "steps": run.progress.step,
            "epochs": run.progress.epochs,
            "train_seconds": run.clocks.read("train"),
            "wall_seconds": run.clocks.total(),
            "seconds": run.clocks.state_dict(),
            "peak_memory_bytes": peak_memory(run.device),
            "parameters": run.parameters,
            "trainable_parameters": run.trainable_parameters,
            "training_images": len(run.training_set),
            **{f"{kind}_images": len(source) for kind, source in run.evaluation_sets.items()},
            **self._constants,
            "best_on": self.selection,
            **self._best,
            **more,
        }
        write_json(self.folder / "summary.json", summary)
        return summary

    def close(self) -> None:
        """Close the files."""
        self._metrics.close()
        if self.logger is not None:
            self.logger.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._metrics.write(to_json(row).encode() + b"\n")
        self._metrics.flush()
        if self.logger is not None:
            self.logger.row(row)


def to_json(row: dict[str, Any]) -> str:
    """Return a row as strict JSON; numbers that JSON lacks (nan, inf) become null."""
    try:
        return json.dumps(row, allow_nan=False)
    except ValueError:
        return json.dumps({k: _plain(v) for k, v in row.items()}, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole: to a temporary name, flushed to disk, renamed."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file whole: to a temporary name, flushed to disk, renamed."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
