"""`trainopt evaluate RUN --follow`: evaluates each checkpoint of a run, while the run writes them."""

import math
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from trainopt.models import DamagedFile

from ..config.durations import Duration
from ..metrics.metric import scalars
from ..metrics.selection import Selection
from ..records.checkpoint_files import numbered_checkpoints, read_checkpoint
from ..records.metrics import EVALUATIONS_FILE, DamagedMetrics, Record, parse_records
from ..records.run_folder import read_summary
from ..state.run import Run
from ..system.display import Display, metric_form, plain_table, value_text
from ..system.errors import FAILED, UserError, reason
from ..system.files import append_whole, json_line, shown
from ..system.interrupt import Interrupt
from ..system.lock import LOCK_FILE, RunLock, is_being_written
from .evaluate import evaluate_sets, evaluation_errors_explained, load_weights, rebuild_run

CHECKPOINT_POLL_SECONDS = 1.0  # between two looks for a new checkpoint

FileId = tuple[int, int, int, int]


class FollowLock(RunLock):
    """One process at a time follows a run."""

    name = "evaluations.lock"
    busy = "is being followed"
    advice = f"it writes the same records into {EVALUATIONS_FILE}"


def follow(folder: Path, which: str, device: str | None = None) -> int:
    """Evaluates the checkpoints of a run as they are written, until the run has ended; returns the exit code.

    The run's own files are only read. A step that has its records is not evaluated again, even if the run was
    resumed from an earlier step: its weights are then bitwise identical.

    Args:
        folder: the run's.
        which: `last`, for each last.pt and the numbered checkpoints before it; or `best`, for each best.pt.
        device: as in the configuration; None: the run's own.

    Raises:
        UserError: another process follows the run; the records cannot be written; or a checkpoint does not belong
            to the run.
    """
    display = Display()
    with Interrupt() as interrupt:
        try:
            with write_errors_explained(folder), FollowLock(folder), evaluation_errors_explained():
                run = rebuild_run(folder, device, display)
                display.say(f"following {shown(folder)} on {run.device}; Ctrl-C ends it")
                with Evaluations(folder) as evaluations:
                    Follower(folder, which, run, evaluations, display).run_to_end()
                    records = evaluations.records
                display.say(f"{shown(folder)}: {end_message(folder)}")
                return show_best(run, records, which, folder, display)
        except KeyboardInterrupt:
            display.say("stopped; the same command continues it")
            return interrupt.code


@contextmanager
def write_errors_explained(folder: Path) -> Iterator[None]:
    """Turns an error of writing into a run's folder into a UserError."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != folder:
            raise
        raise UserError(f"{reason(error)}; --follow writes its records into the run's folder") from error


class Evaluations:
    """The file evaluations.jsonl of a run, as a context: its records so far, to which it appends.

    Args:
        folder: the run's.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path):
        self._file = open(folder / EVALUATIONS_FILE, "ab+", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._file.seek(0)
        try:
            self.records, size = parse_records(self._file.read(), EVALUATIONS_FILE)
        except DamagedMetrics as error:
            self._file.close()
            raise UserError(f"{shown(folder / EVALUATIONS_FILE)}: is damaged; remove it to evaluate anew") from error
        self._done = {(record["kind"], record["step"]) for record in self.records}
        self._file.seek(self._file.truncate(size))  # a follower that was killed leaves an incomplete record

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def missing(self, step: int, kinds: Collection[str]) -> list[str]:
        """Returns those kinds of records that a step does not have yet."""
        return [kind for kind in kinds if (kind, step) not in self._done]

    def append(self, records: list[Record]) -> None:
        """Appends records."""
        append_whole(self._file, "".join(json_line(record) + "\n" for record in records).encode())
        self.records += records
        self._done |= {(record["kind"], record["step"]) for record in records}


class Follower:
    """Evaluates the checkpoints in a run's folder that have no records yet.

    Args:
        folder: the run's.
        which: as in `follow`.
        run: rebuilt, for evaluation.
        evaluations: takes the records.
        display: for a line about each evaluation.
    """

    def __init__(self, folder: Path, which: str, run: Run, evaluations: Evaluations, display: Display):
        self.folder = folder
        self.which = which
        self.run = run
        self.evaluations = evaluations
        self.display = display
        self._read: set[FileId] = set()

    def run_to_end(self) -> None:
        """Evaluates the present checkpoints and those to come, until the run has ended and none is left."""
        while True:
            alive = is_being_written(self.folder)  # asked first: what a run writes at its end is seen below
            while (path := self.next_checkpoint()) is not None:
                self.evaluate(path)
            if not alive:
                return
            time.sleep(CHECKPOINT_POLL_SECONDS)

    def next_checkpoint(self) -> Path | None:
        """Returns the oldest file that was not read and, as far as its name tells, has no records; None: there is none.

        The file counts as read from then on.
        """
        checkpoints = self.folder / "checkpoints"
        paths = [checkpoints / f"{self.which}.pt"]
        if self.which == "last":
            kinds = self.run.evaluation_sets
            numbered = numbered_checkpoints(checkpoints)
            paths = [*(path for step, path in reversed(numbered) if self.evaluations.missing(step, kinds)), *paths]
        for path in paths:
            identity = file_id(path)
            if identity is not None and identity not in self._read:
                self._read.add(identity)
                return path
        return None

    def evaluate(self, path: Path) -> None:
        """Writes the records of a checkpoint that are missing; skips a checkpoint that cannot be read."""
        try:
            state = read_checkpoint(path)
        except (DamagedFile, UserError) as error:
            if file_id(path) in self._read:  # otherwise the run has replaced or removed it meanwhile
                self.display.say(f"note: {error}; skipped")
            return
        kinds = self.evaluations.missing(state["progress"]["step"], self.run.evaluation_sets)
        if not kinds:
            return
        load_weights(self.run, state, path)
        metrics = evaluate_sets(self.run, kinds)
        counts = self.run.progress.counts()
        start = {**counts, "train_seconds": state["clocks"]["train"], "checkpoint": path.name}
        self.evaluations.append([{"kind": kind, **start, **scalars(values)} for kind, values in metrics.items()])
        self.display.show_evaluation(metrics, None, counts, self.run.selection.metric)


def file_id(path: Path) -> FileId | None:
    """Returns what tells a file from one that replaces it; None where there is no file at present."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def end_message(folder: Path) -> str:
    """Returns in words how a run ended that no living process writes."""
    summary = read_summary(folder)
    status = summary.get("status")
    if (folder / LOCK_FILE).exists() or status in (None, "running"):  # a run that ends by itself removes its lock
        return f"the run's process is gone; go on from its last checkpoint with: trainopt resume {shown(folder)}"
    if status == "failed":
        return f"the run failed: {summary.get('error')}"
    return "the run was interrupted" if status == "interrupted" else f"the run {status}"


def show_best(run: Run, records: list[Record], which: str, folder: Path, display: Display) -> int:
    """Prints the best metrics and the number of checkpoints that were missed; returns the exit code."""
    selection = next(iter(run.evaluation_sets))  # validation, where there is one
    selected = [record for record in records if record["kind"] == selection]
    if not selected:
        display.say("there was no checkpoint to evaluate")
        return FAILED
    if which == "last" and (missed := count_missed(selected, Duration.parse(run.checkpoint_every))):
        display.say(
            f"note: {missed} of the checkpoints were gone before they could be read;"
            " keep_checkpoints.last=N or keep_checkpoints.every=N keeps more"
        )
    display.say(best_table(selected, selection, run.selection))
    display.say(f"records: {shown(folder / EVALUATIONS_FILE)}")
    return 0


def count_missed(records: list[Record], every: Duration) -> int:
    """Returns how many of the checkpoints up to that of the last record have no record.

    Args:
        records: of one kind.
        every: the run's `checkpoint_every`.
    """
    unit = "step" if every.unit == "steps" else "epoch"

    def number(record: Record) -> int:
        """Returns the number of checkpoints up to this one: one a step at most, however short `every` is."""
        return min(record["step"], math.floor(record[unit] / every.amount + 1e-9))  # epochs are rounded

    last = max(records, key=lambda record: record["step"])
    return number(last) - len({number(record) for record in records} - {0})


def best_table(records: list[Record], kind: str, selection: Selection) -> Table:
    """Returns a table of the best value of the selection metric, the highest accuracy and the lowest loss.

    Of equal values it is the first.
    """
    table = plain_table("", "value", "step", "epoch")
    loss_form = ".4f" if "top1" in records[0] else ".6g"
    rows = [("best top-1", "top1", 1, ".2f", " %"), ("lowest loss", "loss", -1, loss_form, "")]
    if selection.metric not in ("top1", "loss"):
        label, form, unit = metric_form(selection.metric)
        rows.insert(0, (f"best {label}", selection.metric, selection.sign, form, unit))
    for name, key, sign, form, unit in rows:
        finite = [record for record in records if record.get(key) is not None and math.isfinite(record[key])]
        if finite:
            best = max(sorted(finite, key=lambda record: record["step"]), key=lambda record: sign * record[key])
            table.add_row(
                f"{name} ({kind})", value_text(best[key], form, unit), str(best["step"]), f"{best['epoch']:.2f}"
            )
    return table
