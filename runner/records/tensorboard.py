"""Records of metrics.jsonl as TensorBoard events."""

import os
import platform
from pathlib import Path
from time import time
from typing import Any, BinaryIO

from .logger import Logger, curve_values

# Least time between two training records that are written: more than 20 a second make no better curve, and each
# costs a tenth of a millisecond (a checksum computed in Python).
SPACING_SECONDS = 0.05

FORMAT = "brain.Event:2"  # in the first event of a file


class TensorBoard(Logger):
    """Writes an event for a record, with a curve `kind/name` (`probe/NAME/name`) for each number in it.

    Every evaluation is written, and training records that are `SPACING_SECONDS` apart. The caller's thread writes
    the events (TensorBoard's own writer has another): a full disk is an OSError where it happens.

    Args:
        folder: the run's; it takes the events.
        resumed_at: the step that the run is resumed from; later points of an earlier part are hidden. None: the run
            begins, and the events of an earlier attempt are removed.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None):
        self._folder = folder
        self._resumed_at = resumed_at
        self._drawn_at = -SPACING_SECONDS
        self._file: BinaryIO | None = None

    def _open(self) -> BinaryIO:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        if self._resumed_at is None:
            for events in self._folder.glob("events.out.tfevents.*"):
                events.unlink()
        name = f"events.out.tfevents.{time():.6f}.{platform.node()}.{os.getpid()}"
        file = open(self._folder / name, "ab")  # noqa: SIM115 - closed by close()
        self._writer = RecordWriter(file)
        self._write(Event(wall_time=time(), file_version=FORMAT))
        if self._resumed_at is not None:
            start = SessionLog(status=SessionLog.SessionStatus.START)
            self._write(Event(wall_time=time(), step=self._resumed_at + 1, session_log=start))
        return file

    def row(self, row: dict[str, Any]) -> None:
        """Writes a record."""
        self._file = self._file or self._open()
        if row["kind"] == "train":
            if row["train_seconds"] - self._drawn_at < SPACING_SECONDS:
                return
            self._drawn_at = row["train_seconds"]
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in curve_values(row).items()]
        self._write(self._event(wall_time=time(), step=row["step"], summary=self._summary(value=values)))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        """Writes the buffer."""
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
