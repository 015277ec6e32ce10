"""What is in a run's folder, on its way to a tracker: how far it is stands in a small file beside it."""

import contextlib
import hashlib
import io
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from ..records.job_table import sweep_jobs
from ..records.logger import AXIS_KEYS, curve_values
from ..records.metrics import METRICS_FILE, VOID, Record, parse_records
from ..records.run_folder import CONFIG, SUMMARY, load_config, read_summary
from ..system.errors import one_line
from ..system.files import json_text, read_json, write_json
from ..system.lock import RunLock, is_being_written
from .tracker import Page, Row, Tracker

MOST_ROWS = 500  # that are handed over at a time
MOST_BYTES = 2**24  # that are read at a time: the records of a long run take a multiple of their text in memory


class TrackerError(Exception):
    """A tracker failed; the text is one line."""


class DeliveryLock(RunLock):
    """One process at a time sends a run to a tracker."""

    busy = "is being sent"
    advice = "nothing is left for another one to send"

    def __init__(self, folder: Path, name: str):
        self.name = f"{name}.lock"
        super().__init__(folder)


class Unread:
    """The records of metrics.jsonl after the first `skip` ones.

    A run that was killed cuts its records back when it is resumed, and writes the same ones anew: their times differ,
    and so the lengths of lines. What was sent is therefore known by the number of records, not by bytes.
    """

    def __init__(self, folder: Path, skip: int):
        self._path = folder / METRICS_FILE
        self._skip = skip
        self._offset = 0
        self.number = 0  # of the next record

    def read(self) -> list[tuple[int, Record]]:
        """Returns the next complete records, each with its number; none where there are no more."""
        numbered: list[tuple[int, Record]] = []
        while not numbered:
            try:
                with open(self._path, "rb") as file:
                    file.seek(self._offset)
                    content = file.read(MOST_BYTES)
            except FileNotFoundError:
                return []
            records, size = parse_records(content, self._path.name)
            if not records:
                return []
            self._offset += size
            numbered = [(n, r) for n, r in enumerate(records, self.number) if n >= self._skip and r["kind"] != VOID]
            self.number += len(records)
        return numbered


class Delivery:
    """A session in which a run's records are sent to a tracker; to be entered.

    The file records that rows are being sent, and then that the tracker has them. After a crash in between
    the tracker is asked which of them it has.

    Args:
        folder: the run's.
        tracker: where they go.
        pid: the process that trains the run, or None.

    Raises:
        Busy: another process sends the run to the tracker.
        TrackerError: the tracker failed.
    """

    def __init__(self, folder: Path, tracker: Tracker, pid: int | None = None):
        self._folder = folder
        self._tracker = tracker
        self._pid = pid
        self._path = folder / f"{tracker.name}.json"
        self._lock = DeliveryLock(folder, tracker.name)

    def __enter__(self) -> "Delivery":
        with contextlib.ExitStack() as stack:  # an error while files are read releases the lock
            stack.enter_context(self._lock)
            content = read_json(self._path)
            self._id = content.get("id") or secrets.token_hex(6)
            self._started = content.get("started") or (self._folder / CONFIG).stat().st_mtime
            self._destinations = content.get("sent", {})
            state = self._destinations.get(self._tracker.destination, {})
            self._sent = state.get("rows", 0)  # rows that the tracker has
            self._in_doubt = self._sending = state.get("sending") or 0  # rows below it may have been sent, too
            self._summary = state.get("summary")
            self._unread = Unread(self._folder, self._sent)
            self._rows = self._read()
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.__exit__(kind, error, trace)

    @property
    def is_complete(self) -> bool:
        """Whether the tracker has all records, and the summary as it is."""
        return not self._rows and self._in_doubt <= self._sent and self._summary == self._digest()

    def open(self) -> str:
        """Begins the run of the tracker, or goes on with it; returns where it is, in a line."""
        config, choices = load_config(self._folder)
        job = sweep_jobs([self._folder.resolve()])
        page = Page(
            id=self._id,
            name=self._folder.resolve().name,
            group=job[self._folder.resolve()][0].name if job else None,
            folder=self._folder,
            config={**config, "choices": choices},
            environment={k: v for k, v in read_json(self._folder / "environment.json").items() if k != "earlier"},
            started=self._started,
            pid=self._pid,
        )
        self._save()  # the id, before the tracker has it
        with self._failures():
            place = self._tracker.open(page)
        return place or self._tracker.destination

    def send(self) -> int:
        """Sends the records that are complete; returns how many."""
        count = 0
        while rows := self._rows or self._read():
            self._rows = []
            for start in range(0, len(rows), MOST_ROWS):
                count += self._send(rows[start : start + MOST_ROWS])
        return count

    def _send(self, rows: list[Row]) -> int:
        """Sends rows, but those that the tracker has after a crash; returns how many."""
        end = rows[-1].number + 1
        with self._failures():
            if rows[0].number < self._in_doubt:
                doubtful = self._tracker.unsent([row for row in rows if row.number < self._in_doubt])
                rows = doubtful + [row for row in rows if row.number >= self._in_doubt]
            self._sending = max(self._sending, end)
            self._save()
            if rows:
                self._tracker.send(rows)
        if self._tracker.sends_at_once:
            self._sent = end
            self._save()
        return len(rows)

    def finish(self) -> None:
        """Sends the summary and the status; then the tracker has everything."""
        summary, digest = read_summary(self._folder), self._digest()
        status = summary.pop("status", "running")
        if status == "running" and not is_being_written(self._folder):
            status = "interrupted"
        with self._failures():
            self._tracker.finish(status, summary)
        self._sent, self._summary = max(self._sent, self._sending), digest
        self._save()

    def _read(self) -> list[Row]:
        return [as_row(number, record) for number, record in self._unread.read()]

    def _digest(self) -> str:
        """Returns a hash of what is sent beside the records."""
        content = [read_json(self._folder / SUMMARY), *load_config(self._folder)]
        return hashlib.sha256(json_text({"sent": content}).encode()).hexdigest()[:16]

    def _save(self) -> None:
        self._destinations[self._tracker.destination] = {
            "rows": self._sent,
            "sending": self._sending if self._sending > self._sent else None,
            "summary": self._summary,
        }
        write_json(self._path, {"id": self._id, "started": self._started, "sent": self._destinations})

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns whatever a tracker raises into a TrackerError.

        What its package prints and warns of is not shown, and it cannot ask: it would wait for an answer to a question
        that nobody sees.
        """
        terminal = sys.stdin
        try:
            with (
                warnings.catch_warnings(),
                contextlib.redirect_stdout(io.StringIO()),
                open(os.devnull, encoding="utf-8") as sys.stdin,
            ):
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            text = one_line(error)[:300] or type(error).__name__
            raise TrackerError(f"failed ({text})") from error
        finally:
            sys.stdin = terminal


def as_row(number: int, record: Record) -> Row:
    """Returns a record as trackers get it."""
    axes = {key: value for key, value in record.items() if key in AXIS_KEYS and key not in ("kind", "step")}
    return Row(number, record["step"], curve_values(record), axes)
