"""What a run leaves in its folder: run.yaml, environment.json, metrics.jsonl, summary.json, checkpoints."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Tensor

from ..records.checkpoint_files import CheckpointStore
from ..records.logger import Logger
from ..system.device import peak_memory
from ..system.files import append_whole, json_line, json_text, write_text
from .checkpoint import state_of
from .evaluation import accuracies
from .objective import Output
from .run import Run

FINAL = ("loss", "top1", "top5")

WRITE_SECONDS = 0.25  # rows wait at most so long, and never longer than to the next evaluation or checkpoint


class Record:
    """The files of one run. Rows are appended without a buffer; the summary is rewritten whole.

    Args:
        folder: the run's.
        constants: what every summary says, as fingerprint and seed.
        selection: the kind of row that best figures are taken from, `validation` or `test`.
        store: where checkpoints go.
        keep_every: every so many of the checkpoints that `checkpoint_every` asks for, one is kept; None: none.
        cycles: says how many cycles of the schedule are complete; the end of each is kept. None: of none.
        logger: gets every row too, or None.
    """

    def __init__(
        self,
        folder: Path,
        constants: dict[str, Any],
        selection: str,
        store: CheckpointStore,
        keep_every: int | None = None,
        cycles: Callable[[], int] | None = None,
        logger: Logger | None = None,
    ):
        self.folder = folder
        self.store = store
        self.selection = selection
        self.logger = logger
        self.last_train_row: dict[str, Any] = {}
        self._constants = constants
        self._best: dict[str, Any] = {"best_top1": None, "lowest_loss": None, "final": None}
        self._improved = False
        self._keep_every = keep_every
        self._cycles = cycles
        self._cycles_kept = 0
        self._kept: list[int] = []  # steps whose checkpoints stay
        self._pending: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._outputs: list[tuple[dict[str, Any], tuple[Tensor, Tensor]]] = []
        self._write_at = 0.0
        self._metrics = open(folder / "metrics.jsonl", "ab", buffering=0)  # noqa: SIM115 - closed by close()

    def trained(
        self, row: dict[str, Any], output: Output, targets: Tensor, counts: dict[str, Any], train_seconds: float
    ) -> None:
        """Writes a row about the last update.

        Args:
            row: its figures.
            output: the network's logits, from which `top1` of the batch is added to the row; or what a network
                that returns its loss reports, which is added as it is.
            targets: of the batch.
            counts: what a row begins with.
            train_seconds: the training's clock.
        """
        self.last_train_row = row
        if isinstance(output, dict):
            row.update(output)
        else:
            self._outputs.append((row, (output.detach(), targets)))
        self._write({"kind": "train", **counts, "train_seconds": train_seconds}, row)

    def evaluated(self, kind: str, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Writes a row of figures on the test or the validation set, and note the best so far."""
        self._write({"kind": kind, **counts, "train_seconds": train_seconds}, row)
        if kind == "test":
            self._best["final"] = {
                **{key: row.get(key) for key in FINAL},
                "step": counts["step"],
                "epoch": counts["epoch"],
            }
        if kind == self.selection:
            where = {"step": counts["step"], "epoch": counts["epoch"], "train_seconds": train_seconds}
            figures = [("best_top1", "top1", 1), ("lowest_loss", "loss", -1)]
            figures = [figure for figure in figures if figure[1] in row]  # a test function has no accuracy
            for name, key, sign in figures:
                best = self._best[name]
                if best is None or not math.isfinite(best["value"]) or sign * row[key] > sign * best["value"]:
                    self._best[name] = {"value": row[key], **where}
                    self._improved |= name == figures[0][0]

    def probed(self, name: str, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Writes a row of what a probe measured at the last update."""
        self._write({"kind": "probe", "probe": name, **counts, "train_seconds": train_seconds}, row)

    def decided(self, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Writes a row of what the batching decided after the last update."""
        self._write({"kind": "control", **counts, "train_seconds": train_seconds}, row)

    def happened(self, name: str, row: dict[str, Any], counts: dict[str, Any], train_seconds: float) -> None:
        """Writes a row of what a regularizer did after the last update."""
        self._write({"kind": "event", "regularizer": name, **counts, "train_seconds": train_seconds}, row)

    def keep_best(self, run: Run) -> None:
        """Writes best.pt if the last evaluation was the best so far (but of no range test), and the summary.

        best.pt holds the whole state, and a run that was killed goes on from it where it is the newest: so it is
        never of a time that the run has not come to.
        """
        if self._improved and not run.range_test:
            with run.clocks.running("checkpoint"):
                self.store.write_best(self._state(run))
            self._improved = False
        self.summarise(run, "running")
        if self.logger is not None:
            self.logger.flush()

    @property
    def cycle_ended(self) -> bool:
        """Whether the schedule has completed a cycle since the last one whose end was kept."""
        return self._cycles is not None and self._cycles() > self._cycles_kept

    def checkpoint(self, run: Run, scheduled: bool = False) -> None:
        """Writes last.pt, which stays for good where it is asked for or a cycle has ended.

        Args:
            run: whose state it is.
            scheduled: whether `checkpoint_every` asked for it; `keep_every` counts these.
        """
        with run.clocks.running("checkpoint"):
            number = int(run.progress.elapsed(run.checkpoint_every))
            if self.cycle_ended or (scheduled and self._keep_every and number % self._keep_every == 0):
                self._kept.append(run.progress.step)
            if self._cycles is not None:
                self._cycles_kept = self._cycles()
            self.store.write(self._state(run))

    def _state(self, run: Run) -> dict[str, Any]:
        """Returns the run's state, with how much of metrics.jsonl belongs to it."""
        self.flush()
        os.fsync(self._metrics.fileno())
        kept = {"kept": list(self._kept), "cycles_kept": None if self._cycles is None else self._cycles_kept}
        return {**state_of(run), "record": {**self._best, "metrics_bytes": self._metrics.tell(), **kept}}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint: metrics.jsonl is cut back to it."""
        record = state["record"]
        self._metrics.truncate(record["metrics_bytes"])
        self._metrics.seek(record["metrics_bytes"])
        self._best = {name: record[name] for name in self._best}
        self._kept = list(record["kept"])
        if self._cycles is not None:  # where the run did not keep their ends so far, it begins with the next
            cycles_kept = record.get("cycles_kept")
            self._cycles_kept = self._cycles() if cycles_kept is None else cycles_kept

    def summarise(self, run: Run, status: str, **more: Any) -> dict[str, Any]:
        """Writes the rows that wait and summary.json, and returns the summary."""
        self.flush()
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
            "classes": None if run.objective.returns_loss else run.num_classes,
            "training_images": len(run.training_set),
            **{f"{kind}_images": len(source) for kind, source in run.evaluation_sets.items()},
            **self._constants,
            "best_on": self.selection,
            **self._best,
            **more,
        }
        self._write_summary(json_text(summary))
        return summary

    def _write_summary(self, text: str) -> None:
        path = self.folder / "summary.json"
        try:
            write_text(path, text)
        except OSError:
            if not path.exists():
                raise
            with open(path, "r+") as file:  # a full disk has no room for a second copy, but for this one
                file.write(text)
                file.truncate()

    def close(self) -> None:
        """Writes what waits and close the files; what cannot be written was said when it first happened."""
        with suppress(OSError):
            self.flush()
        self._metrics.close()
        with suppress(OSError):
            if self.logger is not None:
                self.logger.close()

    def _write(self, start: dict[str, Any], row: dict[str, Any]) -> None:
        self._pending.append((start, row))
        if monotonic() > self._write_at:
            self.flush()

    def flush(self) -> None:
        """Appends the rows that wait; together they cost less than half of what each would alone.

        Raises:
            OSError: they cannot be written, as on a full disk. They are dropped, and metrics.jsonl ends with a
                whole row.
        """
        pending, outputs = self._pending, self._outputs
        self._pending, self._outputs = [], []
        self._write_at = monotonic() + WRITE_SECONDS
        for (row, _), top1 in zip(outputs, accuracies([o for _, o in outputs]), strict=True):
            row["top1"] = top1
        # an optimizer's own `hvps` are not the count so far: what a row starts with goes before what is in it
        rows = [{**start, **row, **start} for start, row in pending]
        append_whole(self._metrics, "".join(json_line(row) + "\n" for row in rows).encode())
        if self.logger is not None:
            for row in rows:
                self.logger.row(row)
