"""`trainopt evaluate RUN --follow`: each checkpoint of a run that goes on is evaluated as it comes."""

import math
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from trainopt.models import DamagedFile

from ..config.durations import Duration
from ..records.checkpoint_files import numbered_checkpoints, read_checkpoint
from ..records.metrics import EVALUATIONS, DamagedMetrics, parse_records
from ..state.run import Run
from ..system.display import Display, figure
from ..system.errors import FAILED, UserError, reason
from ..system.files import append_whole, read_json, shown, to_json
from ..system.interrupt import Interrupt
from ..system.lock import NAME, RunLock, is_written
from .evaluate import enough_memory, figures, prepared, set_state

LOOK_SECONDS = 1.0  # between two looks for a new checkpoint

Identity = tuple[int, int, int, int]  # of a file


class FollowLock(RunLock):
    """One process at a time follows a run."""

    name = "evaluations.lock"
    told = "is being followed"
    advice = f"it writes the same rows into {EVALUATIONS}"


def follow(folder: Path, which: str, device: str | None = None) -> int:
    """Evaluates the checkpoints of a run as they come, until it has ended; returns the exit code.

    The run's own files are only read. A step that has its rows is not evaluated again, also not after the run went
    on from an earlier step: its weights are then the same, bit for bit.

    Args:
        folder: the run's.
        which: `last`, for each last.pt and what became of those before it; or `best`, for each best.pt.
        device: as in the configuration; None: the run's.

    Raises:
        UserError: another process follows the run; the rows cannot be written; or a checkpoint is of something
            else.
    """
    display = Display()
    with Interrupt() as interrupt:
        try:
            with writing(folder), FollowLock(folder), enough_memory():
                run = prepared(folder, device, display)
                display.say(f"following {shown(folder)} on {run.device}; Ctrl-C ends it")
                with Evaluations(folder) as evaluations:
                    evaluate_all(folder, which, run, evaluations, display)
                    rows = evaluations.rows
                display.say(f"{shown(folder)}: {how_it_ended(folder)}")
                return tell_end(run, rows, which, folder, display)
        except KeyboardInterrupt:
            display.say("stopped; the same command goes on with it")
            return interrupt.code


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns an error of writing a follower's files into a UserError."""
    try:
        yield
    except OSError as error:
        if error.filename is None or Path(error.filename).parent != folder:
            raise
        raise UserError(f"{reason(error)}; --follow writes its rows into the run's folder") from error


class Evaluations:
    """The rows that followers of a run have written; entered, it takes more.

    Args:
        folder: the run's.

    Raises:
        UserError: the file is damaged.
    """

    def __init__(self, folder: Path):
        self._file = open(folder / EVALUATIONS, "ab+", buffering=0)  # noqa: SIM115 - closed when left
        self._file.seek(0)
        try:
            self.rows, size = parse_records(self._file.read(), EVALUATIONS)
        except DamagedMetrics as error:
            self._file.close()
            raise UserError(f"{shown(folder / EVALUATIONS)}: is damaged; remove it to evaluate anew") from error
        self._done = {(row["kind"], row["step"]) for row in self.rows}
        self._file.seek(self._file.truncate(size))  # a follower that was killed leaves an incomplete record

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def missing(self, step: int, kinds: Collection[str]) -> list[str]:
        """Returns those kinds of rows that a step does not have yet."""
        return [kind for kind in kinds if (kind, step) not in self._done]

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Appends rows."""
        append_whole(self._file, "".join(to_json(row) + "\n" for row in rows).encode())
        self.rows += rows
        self._done |= {(row["kind"], row["step"]) for row in rows}


def evaluate_all(folder: Path, which: str, run: Run, evaluations: Evaluations, display: Display) -> None:
    """Evaluates what there is and what comes, until the run has ended and there is no more."""
    looked: set[Identity] = set()  # what was read
    while True:
        goes_on = is_written(folder)  # asked first: what a run writes at its end is seen below
        while (path := next_new(folder, which, evaluations, run.evaluation_sets, looked)) is not None:
            evaluate_one(path, run, evaluations, display, looked)
        if not goes_on:
            return
        time.sleep(LOOK_SECONDS)


def next_new(
    folder: Path, which: str, evaluations: Evaluations, kinds: Collection[str], looked: set[Identity]
) -> Path | None:
    """Returns the oldest checkpoint that nobody has evaluated, as far as can be told without reading it.

    Args:
        folder: the run's.
        which: as in `follow`.
        evaluations: the rows so far.
        kinds: of the rows that a step should have.
        looked: the files that were returned before; the one that is returned is added.
    """
    checkpoints = folder / "checkpoints"
    paths = [checkpoints / f"{which}.pt"]
    if which == "last":
        unknown = [path for step, path in numbered_checkpoints(checkpoints) if evaluations.missing(step, kinds)]
        paths = [*reversed(unknown), *paths]
    for path in paths:
        file = identity(path)
        if file is not None and file not in looked:
            looked.add(file)
            return path
    return None


def identity(path: Path) -> Identity | None:
    """Returns what tells a file from one that takes its place; None where there is none just now."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def evaluate_one(
    path: Path, run: Run, evaluations: Evaluations, display: Display, looked: Collection[Identity]
) -> None:
    """Writes the rows of a checkpoint, where they are missing; pass over one that cannot be read."""
    try:
        state = read_checkpoint(path)
    except (DamagedFile, UserError) as error:
        if identity(path) in looked:  # else the run has replaced or removed it meanwhile
            display.say(f"note: {error}; passed over")
        return
    kinds = evaluations.missing(state["progress"]["step"], run.evaluation_sets)
    if not kinds:
        return
    set_state(run, state, path)
    rows = figures(run, kinds)
    counts = run.progress.counts()
    start = {**counts, "train_seconds": state["clocks"]["train"], "checkpoint": path.name}
    evaluations.add([{"kind": kind, **start, **row} for kind, row in rows.items()])
    display.evaluated(rows, {}, counts)


def how_it_ended(folder: Path) -> str:
    """Says in words how a run ended that no living process writes."""
    summary = read_json(folder / "summary.json")
    status = summary.get("status")
    if (folder / NAME).exists() or status in (None, "running"):  # a run that ends by itself removes its lock
        return f"the run's process is gone; go on from its last checkpoint with: trainopt resume {shown(folder)}"
    if status == "failed":
        return f"the run failed: {summary.get('error')}"
    return "the run was interrupted" if status == "interrupted" else f"the run {status}"


def tell_end(run: Run, rows: list[dict[str, Any]], which: str, folder: Path, display: Display) -> int:
    """Prints the best figures and what was missed; returns the exit code."""
    selection = next(iter(run.evaluation_sets))  # validation, where there is one
    chosen = [row for row in rows if row["kind"] == selection]
    if not chosen:
        display.say("there was no checkpoint to evaluate")
        return FAILED
    if which == "last" and (gone := missed(chosen, Duration.parse(run.checkpoint_every))):
        display.say(
            f"note: {gone} of the checkpoints were gone before they could be read;"
            " keep_checkpoints.last=N or keep_checkpoints.every=N keeps more"
        )
    display.say(best_of(chosen, selection))
    display.say(f"rows: {shown(folder / EVALUATIONS)}")
    return 0


def missed(rows: list[dict[str, Any]], every: Duration) -> int:
    """Returns how many of the checkpoints up to the last row's have no row.

    Args:
        rows: of one kind.
        every: the run's `checkpoint_every`.
    """
    unit = "step" if every.unit == "steps" else "epoch"

    def number(row: dict[str, Any]) -> int:
        """How many checkpoints there were up to this one: one a step at most, however short `every` is."""
        return min(row["step"], math.floor(row[unit] / every.amount + 1e-9))  # epochs are rounded

    last = max(rows, key=lambda row: row["step"])
    return number(last) - len({number(row) for row in rows} - {0})


def best_of(rows: list[dict[str, Any]], kind: str) -> Table:
    """Returns a table of the highest accuracy and the lowest loss, of each the first."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("", "value", "step", "epoch"):
        table.add_column(name, justify="right" if name else "left")
    loss_form = ".4f" if "top1" in rows[0] else ".6g"
    for name, key, sign, form, unit in (
        ("best top-1", "top1", 1, ".2f", " %"),
        ("lowest loss", "loss", -1, loss_form, ""),
    ):
        finite = [row for row in rows if row.get(key) is not None and math.isfinite(row[key])]
        if finite:
            best = max(sorted(finite, key=lambda row: row["step"]), key=lambda row: sign * row[key])
            table.add_row(f"{name} ({kind})", figure(best[key], form, unit), str(best["step"]), f"{best['epoch']:.2f}")
    return table
