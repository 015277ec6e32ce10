"""What a run writes while it is trained: metrics.jsonl, summary.json, checkpoints."""

import math
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from torch import Tensor

from ..metrics.accuracy import accuracies
from ..records.checkpoint_files import CheckpointStore
from ..records.logger import Logger
from ..records.metric_arrays import write_arrays
from ..records.metrics import METRICS_FILE
from ..records.run_folder import SUMMARY
from ..system.device import peak_memory
from ..system.files import append_whole, json_line, json_text, write_text
from .checkpoint import run_state
from .objective import Output
from .run import Run

WRITE_SECONDS = 0.25  # a row waits at most so long, and at most until the next evaluation or checkpoint


class Recorder:
    """Writes metrics.jsonl, summary.json and checkpoints of one run.

    Rows are appended without a buffer; the summary is rewritten whole.

    Args:
        run: the run.
        folder: the run's.
        fingerprint: of the run's configuration, for summaries.
        store: where checkpoints go.
        keep_every: every so many of the checkpoints that `checkpoint_every` asks for, one is kept; None: none.
        at_restarts: whether the checkpoint after the end of each cycle of the schedule is kept.
        loggers: get every row too.
        metrics: the file that rows are appended to, in place of the folder's.

    Attributes:
        last_loss: that of the step before the last evaluation, of its batch; None before the first step.
    """

    def __init__(
        self,
        run: Run,
        folder: Path,
        fingerprint: str,
        store: CheckpointStore,
        keep_every: int | None = None,
        at_restarts: bool = False,
        loggers: Iterable[Logger] = (),
        metrics: Any = None,
    ):
        self.store = store
        self.last_loss: float | None = None
        self._run = run
        self._folder = folder
        self._fingerprint = fingerprint
        self._best_on = next(iter(run.evaluation_sets))  # validation, where there is one
        self._loggers = list(loggers)
        self._best: dict[str, Any] = dict.fromkeys(("best", "best_top1", "lowest_loss", "selected", "final"))
        self._arrays: dict[str, dict[str, np.ndarray]] = {}  # of the last evaluation, by kind
        self._improved = False  # since best.pt was written
        self._keep_every = keep_every
        self._at_restarts = at_restarts
        self._cycles_kept = 0  # cycles whose end was kept
        self._steps_kept: list[int] = []  # steps whose checkpoints are never removed
        self._pending: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._outputs: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
        self._write_at = 0.0
        self._metrics = metrics or open(folder / METRICS_FILE, "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def log_train(self, row: dict[str, Any], output: Output, targets: Tensor) -> None:
        """Writes a row about the last step.

        Args:
            row: its values.
            output: the network's outputs, from which `top1` of the batch is added to the row where they are logits (B,
                classes); or what a network that returns its loss reports, which is added as it is.
            targets: of the batch.
        """
        if isinstance(output, dict):
            row.update(output)
        elif self._run.num_classes is not None and output.dim() == 2:
            self._outputs.append((row, (output.detach(), targets)))
        self._write({"kind": "train"}, row)

    def log_evaluation(self, kind: str, row: dict[str, Any]) -> None:
        """Writes a row about the test or the validation set, and notes the best values so far."""
        self._arrays[kind] = {name: value for name, value in row.items() if isinstance(value, np.ndarray)}
        row = {name: value for name, value in row.items() if name not in self._arrays[kind]}
        self._write({"kind": kind}, row)
        progress, selection = self._run.progress, self._run.selection
        position = {"step": progress.step, "epoch": progress.epochs}
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        final = self._best["final"] or ({} if self._run.metrics else {"loss": None, "top1": None, "top5": None})
        if kind == "test":
            self._best["final"] = {**final, **numbers, **position}
        elif kind != "validation":  # a further test set
            self._best["final"] = {**final, kind: numbers}
        best = self._best["best"]
        if kind != self._best_on == "validation" and best and best["step"] == progress.step:  # validation came first
            selected = self._best["selected"] or {}
            earlier = selected if selected.get("step") == progress.step else position
            self._best["selected"] = {**earlier, **(numbers if kind == "test" else {kind: numbers})}
        if kind != self._best_on:
            return
        metrics = [("best", selection.metric, selection.sign), ("best_top1", "top1", 1), ("lowest_loss", "loss", -1)]
        for name, key, sign in metrics:
            best = self._best[name]
            if key not in row:  # as of a test function, which has no accuracy
                continue
            if best is None or not math.isfinite(best["value"]) or sign * row[key] > sign * best["value"]:
                entry = {"value": row[key], **position, "train_seconds": self._run.clocks.seconds["train"]}
                self._best[name] = {"metric": key, **entry} if name == "best" else entry
                self._improved |= name == "best"

    def log_probe(self, name: str, row: dict[str, Any]) -> None:
        """Writes a row with what a probe measured at the last step."""
        self._write({"kind": "probe", "probe": name}, row)

    def log_control(self, row: dict[str, Any]) -> None:
        """Writes a row with the decision on batch size and learning rate after the last step."""
        self._write({"kind": "control"}, row)

    def log_event(self, name: str, row: dict[str, Any]) -> None:
        """Writes a row with a change in a regularizer after the last step."""
        self._write({"kind": "event", "regularizer": name}, row)

    def keep_best(self) -> None:
        """Writes what an evaluation leaves: arrays, the summary, and best.pt if it was the best (not in a range test).

        best.pt holds the whole state: a run that was killed goes on from it if it is the newest checkpoint.
        """
        if self._improved and not self._run.range_test:
            with self._run.clocks.running("checkpoint"):
                self.store.write_best(self._state())
            self._improved = False
        if any(self._arrays.values()):
            progress = self._run.progress
            write_arrays(self._folder, {"step": progress.step, "epoch": progress.epochs}, self._arrays)
        self.summarise("running")
        for logger in self._loggers:
            logger.flush()

    @property
    def cycle_ended(self) -> bool:
        """Whether the schedule has completed a cycle since the last one whose end was kept."""
        return self._at_restarts and self._run.cycles > self._cycles_kept

    def checkpoint(self, scheduled: bool = False) -> None:
        """Writes last.pt, which is never removed where `keep_every` or the end of a cycle asks for it.

        Args:
            scheduled: whether `checkpoint_every` asked for it; `keep_every` counts these.
        """
        run = self._run
        with run.clocks.running("checkpoint"):
            number = int(run.progress.elapsed(run.checkpoint_every))
            if self.cycle_ended or (scheduled and self._keep_every and number % self._keep_every == 0):
                self._steps_kept.append(run.progress.step)
            if self._at_restarts:
                self._cycles_kept = run.cycles
            self.store.write(self._state())

    def _state(self) -> dict[str, Any]:
        """Returns the run's state, with the length of metrics.jsonl at this step."""
        self.flush()
        os.fsync(self._metrics.fileno())
        record = {
            **self._best,
            "metrics_bytes": self._metrics.tell(),
            "train_loss": self.last_loss,
            "kept": list(self._steps_kept),
            "cycles_kept": self._cycles_kept if self._at_restarts else None,
        }
        return {**run_state(self._run), "record": record}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from the state in a checkpoint; later rows of metrics.jsonl are removed."""
        record = state["record"]
        self._metrics.truncate(record["metrics_bytes"])
        self._metrics.seek(record["metrics_bytes"])
        self._best = {name: record.get(name) for name in self._best}
        if self._best["best"] is None:  # of a version that had only these two
            metric = self._run.selection.metric
            former = self._best["best_top1" if metric == "top1" else "lowest_loss"]
            self._best["best"] = former and {"metric": metric, **former}
        self._steps_kept = list(record["kept"])
        self.last_loss = record.get("train_loss")
        if self._at_restarts:  # a run that kept no ends of cycles so far begins with the next
            cycles_kept = record.get("cycles_kept")
            self._cycles_kept = self._run.cycles if cycles_kept is None else cycles_kept

    def summarise(self, status: str, **more: Any) -> dict[str, Any]:
        """Writes the rows that wait and summary.json, and returns the summary."""
        self.flush()
        run = self._run
        seconds, loss = run.clocks.state_dict(), run.objective.loss
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
            "classes": None if run.objective.returns_loss else run.num_classes,
            "objective": "value" if run.objective.returns_loss else loss.target or loss.term,
            "metrics": {name: metric.higher_is_better for name, metric in run.metrics.items()},
            "training_images": len(run.training_set),
            **{f"{kind}_images": len(source) for kind, source in run.evaluation_sets.items()},
            "fingerprint": self._fingerprint,
            "seed": run.seed,
            **({"is_repeatable": False} if run.is_timed else {}),
            **({"code_changes": run.code_changes} if run.code_changes else {}),
            "best_on": self._best_on,
            **self._best,
            **more,
        }
        self._write_summary(json_text(summary))
        return summary

    def _write_summary(self, text: str) -> None:
        path = self._folder / SUMMARY
        try:
            write_text(path, text)
        except OSError:
            if not path.exists():
                raise
            with open(path, "r+", encoding="utf-8") as file:  # a full disk has no room for a second copy
                file.write(text)
                file.truncate()

    def close(self) -> None:
        """Writes the rows that wait and closes the files; errors of writing were reported when they first happened."""
        with suppress(OSError):
            self.flush()
        self._metrics.close()
        for logger in self._loggers:
            with suppress(OSError):
                logger.close()

    def _write(self, start: dict[str, Any], row: dict[str, Any]) -> None:
        counts, train_seconds = self._run.progress.counts(), self._run.clocks.seconds["train"]
        self._pending.append(({**start, **counts, "train_seconds": train_seconds}, row))
        if monotonic() > self._write_at:
            self.flush()

    def flush(self) -> None:
        """Appends the rows that wait; together they cost less than half as much as one by one.

        Raises:
            OSError: they cannot be written, as on a full disk. They are dropped, and metrics.jsonl ends with a
                whole row.
        """
        pending, outputs = self._pending, self._outputs
        self._pending, self._outputs = [], []
        self._write_at = monotonic() + WRITE_SECONDS
        for (row, _), top1 in zip(outputs, accuracies([o for _, o in outputs]), strict=True):
            row["top1"] = top1
        # `hvps` of an optimizer's last step are not those so far: the counts at the start of a row take precedence
        rows = [{**start, **row, **start} for start, row in pending]
        append_whole(self._metrics, "".join(json_line(row) + "\n" for row in rows).encode())
        for logger in self._loggers:
            for row in rows:
                logger.row(row)


class SilentRecorder(Recorder):
    """The recorder of a process beside rank 0: it decides as that does, and writes nothing.

    Args:
        run: the run.
        keep_every, at_restarts: as of `Recorder`.
    """

    def __init__(self, run: Run, keep_every: int | None = None, at_restarts: bool = False):
        nowhere = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by close()
        super().__init__(run, Path(), "", SilentStore(), keep_every, at_restarts, metrics=nowhere)

    def flush(self) -> None:
        """Drops the rows that wait."""
        self._pending, self._outputs = [], []

    def keep_best(self) -> None:
        """Takes part in what rank 0 computes for best.pt."""
        if self._improved and not self._run.range_test:
            self._state()
        self._improved = False

    def summarise(self, status: str, **more: Any) -> dict[str, Any]:
        """Returns a summary of the status alone."""
        return {"status": status, **more}


class SilentStore(CheckpointStore):
    """Takes checkpoints and writes none."""

    def __init__(self) -> None:
        super().__init__(Path(os.devnull))

    def write(self, state: dict[str, Any]) -> None:
        """Notes the step."""
        self.last_step = state["progress"]["step"]
