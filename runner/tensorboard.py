"""Rows of metrics.jsonl as TensorBoard events."""

from pathlib import Path
from time import time
from typing import Any

# parts of a row that are axes, not curves
AXES = ("kind", "step", "epoch", "samples", "gradients", "hvps", "train_seconds")

# Training rows that follow the last one drawn within so many seconds of training are left out: more of them than
# 20 a second are no better picture, and each costs a tenth of a millisecond (a checksum computed in Python).
SPACING_SECONDS = 0.05


class TensorBoard:
    """Writes an event for a row, with a curve `kind/name` for each number in it.

    Every evaluation is drawn, and training rows that are `SPACING_SECONDS` apart.

    Args:
        folder: the run's; events lie in it.
        resumed_at: the step that the run goes on from; curves drawn beyond it by an earlier part are hidden.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._drawn_at = -SPACING_SECONDS
        self._writer = EventFileWriter(str(folder))
        if resumed_at is not None:
            start = SessionLog(status=SessionLog.SessionStatus.START)
            self._writer.add_event(Event(step=resumed_at + 1, session_log=start))

    def row(self, row: dict[str, Any]) -> None:
        """Write a row."""
        if row["kind"] == "train":
            if row["train_seconds"] - self._drawn_at < SPACING_SECONDS:
                return
            self._drawn_at = row["train_seconds"]
        values = [
            self._summary.Value(tag=f"{row['kind']}/{name}", simple_value=value)
            for name, value in row.items()
            if name not in AXES and isinstance(value, int | float)
        ]
        event = self._event(wall_time=time(), step=row["step"], summary=self._summary(value=values))
        self._writer.add_event(event)

    def flush(self) -> None:
        """Write what is buffered to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
