"""What a run leaves in its folder: run.yaml, environment.json, metrics.jsonl, summary.json, checkpoints."""

import json
import math
import os
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor

from . import checkpoint
from .build import Run
from .device import peak_memory
from .errors import UserError
from .evaluation import accuracies

FINAL = ("loss", "top1", "top5")

WRITE_SECONDS = 0.25  # rows wait at most so long, and never longer than to the next evaluation or checkpoint

_encode = json.JSONEncoder(allow_nan=False).encode


class Record:
    """The files of one run. Rows are appended without a buffer; the summary is rewritten whole.

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
        self._pending: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._outputs: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
        self._write_at = 0.0
        self._metrics = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 - closed by close()

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def trained(
        self, row: dict[str, Any], logits: Tensor, targets: Tensor, counts: dict[str, Any], train_seconds: float
    ) -> None:
        """Write a row about the last update; `top1` of its batch is added to it."""
        self.last_train_row = row
        self._outputs.append((row, (logits.detach(), targets)))
        self._write({"kind": "train", **counts, "train_seconds": train_seconds}, row)

    def evaluated(self, kind: str, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Write a row of figures on the test or the validation set, and note the best so far."""
        self._write({"kind": kind, **counts, "train_seconds": train_seconds}, row)
        if kind == "test":
            self._best["final"] = {
                **{key: row[key] for key in FINAL},
                "step": counts["step"],
                "epoch": counts["epoch"],
            }
        if kind == self.selection:
            where = {"step": counts["step"], "epoch": counts["epoch"], "train_seconds": train_seconds}
            for name, key, sign in (("best_top1", "top1", 1), ("lowest_loss", "loss", -1)):
                best = self._best[name]
                if best is None or not math.isfinite(best["value"]) or sign * row[key] > sign * best["value"]:
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
        with run.clocks.running("checkpoint"):
            self._write_pending()
            state = checkpoint.state_of(run)
            state["record"] = {**self._best, "metrics_bytes": self._metrics.tell()}
            os.fsync(self._metrics.fileno())
            checkpoint.save(self._checkpoints / "last.pt", state)

    def resume(self, state: dict[str, Any]) -> None:
        """Cut metrics.jsonl back to the checkpoint that the run goes on from; UserError if rows are lost."""
        record = state["record"]
        path = self.folder / "metrics.jsonl"
        if path.stat().st_size < record["metrics_bytes"]:
            raise UserError(f"{path}: lacks rows that the checkpoint counts on; remove checkpoints/ to begin anew")
        self._metrics.truncate(record["metrics_bytes"])
        self._metrics.seek(record["metrics_bytes"])
        self._best = {name: record[name] for name in self._best}

    def summarise(self, run: Run, status: str, **more: Any) -> dict[str, Any]:
        """Write the rows that wait and summary.json, and return the summary."""
        self._write_pending()
        seconds = run.clocks.state_dict()
        summary = {
            "status": status,
            **{k: v for k, v in run.progress.counts().items() if k not in ("step", "epoch")},
            "steps": run.progress.step,
            "epochs": run.progress.epochs,
            "train_seconds": seconds["train"],
            "wall_seconds": sum(seconds.values()),
            "seconds": seconds,
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
        """Write what waits and close the files."""
        self._write_pending()
        self._metrics.close()
        if self.logger is not None:
            self.logger.close()

    def _write(self, start: dict[str, Any], row: dict[str, Any]) -> None:
        self._pending.append((start, row))
        if monotonic() > self._write_at:
            self._write_pending()

    def _write_pending(self) -> None:
        """Append the rows that wait; together they cost less than half of what each would alone."""
        batches = [outputs for _, outputs in self._outputs]
        for (row, _), top1 in zip(self._outputs, accuracies(batches), strict=True):
            row["top1"] = top1
        # an optimizer's own `hvps` are not the count so far: what a row starts with goes before what is in it
        rows = [{**start, **row, **start} for start, row in self._pending]
        self._metrics.write("".join(to_json(row) + "\n" for row in rows).encode())
        if self.logger is not None:
            for row in rows:
                self.logger.row(row)
        self._outputs.clear()
        self._pending.clear()
        self._write_at = monotonic() + WRITE_SECONDS


def to_json(row: dict[str, Any]) -> str:
    """Return a row as strict JSON; numbers that JSON lacks (nan, inf) become null."""
    try:
        return _encode(row)
    except ValueError:
        return _encode(_plain(row))


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
