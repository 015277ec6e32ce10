"""Weights & Biases (wandb)."""

import os
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..system.files import shown
from .tracker import FAILED, FINISHED, INTERRUPTED, Page, Row, Tracker, numbers

# exit codes, from which the service shows finished, failed, killed
EXIT_CODES = {**dict.fromkeys(FINISHED, 0), **dict.fromkeys(FAILED, 1), **dict.fromkeys(INTERRUPTED, 255)}
INIT_SECONDS = 30.0  # after which a service that cannot be reached counts as one that failed
# the form of .wandb files: LevelDB's log, after a header
HEADER, BLOCK, RECORD = 7, 32768, struct.Struct("<IHB")
WHOLE, FIRST, LAST = 1, 2, 4  # kinds of parts


class WandB(Tracker):
    """Sends a run to Weights & Biases: `wandb login` once, or WANDB_API_KEY; without network, mode=offline.

    The number of the record is the service's own step, of which it takes each once; curves are drawn over `step`, the
    update, or over `epoch`, `samples`, `train_seconds`. A run that diverged is finished, with the tag `diverged`.

    Args:
        project: of the service.
        entity: the user or team; None: the default one of the account.
        group: of runs that belong together; None: the name of the sweep, for a run of one.
        tags: of the run.
        notes: on the run.
        mode: online, offline, or None: as WANDB_MODE says, else online. Offline, the files lie in the run's folder
            (or in WANDB_DIR), and `wandb sync` uploads them.
        timeout: as for a tracker, in seconds.
        folder: as for a tracker.
        say: as for a tracker.
    """

    name = "wandb"

    def __init__(
        self,
        project: str = "trainopt",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        mode: str | None = None,
        timeout: float = 60.0,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ):
        if mode not in ("online", "offline", None):
            raise ValueError(f"mode={mode}: must be online, offline or null")
        self._project, self._entity, self._group = project, entity, group
        self._tags, self._notes = tuple(tags), notes
        self._mode: Any = mode
        settings = {"project": project, "entity": entity, "group": group, "tags": list(tags), "notes": notes}
        super().__init__("wandb", {**settings, "mode": mode}, timeout, folder, say)

    @property
    def destination(self) -> str:
        """The entity and the project; apart for offline files."""
        mode = self._mode or os.environ.get("WANDB_MODE", "online")
        return "/".join(filter(None, [self._entity, self._project])) + ("" if mode == "online" else f" ({mode})")

    @property
    def is_offline(self) -> bool:
        """Whether records go into files."""
        return (self._mode or os.environ.get("WANDB_MODE", "online")) == "offline"

    def upload_hint(self, folder: Path) -> str:
        """Returns how offline files are uploaded; empty where there are none."""
        if not self.is_offline:
            return ""
        files = Path(os.environ.get("WANDB_DIR", folder)) / "wandb"
        return f"; nothing is uploaded yet: wandb sync {shown(files)}/offline-run-*, or logger.wandb.mode=online here"

    def open(self, page: Page) -> str:
        """Begins a run, or goes on with it; returns its address, or the folder of its offline files."""
        if "wandb" not in sys.modules:  # its process is to be ours, not that of a program that started this one
            os.environ.pop("WANDB_SERVICE", None)
        import wandb

        self._folder_of_files = Path(os.environ.get("WANDB_DIR", page.folder))
        settings = wandb.Settings(
            console="off",  # log.txt has the lines
            silent=True,
            init_timeout=INIT_SECONDS,
            finish_timeout=self.timeout,
            finish_timeout_raises=True,
            disable_code=True,  # the program is ours
            x_disable_stats=page.pid is None,
            x_stats_pid=page.pid or os.getpid(),
        )
        self._wait_for_new_name(page.id)
        self._run = wandb.init(
            project=self._project,
            entity=self._entity,
            group=self._group or page.group,
            tags=self._tags,
            notes=self._notes,
            mode=self._mode,
            id=page.id,
            name=page.name,
            resume="allow",
            dir=str(self._folder_of_files),
            settings=settings,
        )
        self._run.config.update({**page.config, "environment": page.environment}, allow_val_change=True)
        self._run.define_metric("*", step_metric="step")
        return f"offline; wandb sync {self._run.sync_dir}" if self._run.offline else str(self._run.url)

    def _wait_for_new_name(self, run_id: str) -> None:
        """Waits while the folder of this session would be that of one before: its name has the second in it."""
        while any(self._folder_of_files.glob(f"wandb/*-{time.strftime('%Y%m%d_%H%M%S')}-{run_id}")):
            time.sleep(0.05)

    def send(self, rows: list[Row]) -> None:
        """Hands rows to W&B's own process."""
        for row in rows:
            self._run.log({**row.values, **row.axes, "step": row.step}, step=row.number)

    def unsent(self, rows: list[Row]) -> list[Row]:
        """Returns the rows after the last one that the service, or a file of an earlier session, has."""
        number = self._run.starting_step
        if self._run.offline:
            for path in self._folder_of_files.glob(f"wandb/*/run-{self._run.id}.wandb"):
                number = max([number, *(step + 1 for step in steps_in(path))])
        return [row for row in rows if row.number >= number]

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Sends the summary and the status; returns when the service has everything."""
        self._run.summary.update({**numbers(summary), "status": status})
        self._run.tags = (*self._tags, *(["diverged"] if status == "diverged" else []))
        path = Path(self._run.sync_dir) / f"run-{self._run.id}.wandb"
        self._run.finish(exit_code=EXIT_CODES.get(status, 0))
        until = time.monotonic() + self.timeout
        while self._run.offline and not is_complete(path):  # W&B's process may still write it
            if time.monotonic() > until:
                raise TimeoutError(f"{path} is not complete after {self.timeout:g} s")
            time.sleep(0.02)


def steps_in(path: Path) -> Iterator[int]:
    """Yields the service's step of each row in a .wandb file, of which the end may be missing."""
    for kind, record in decoded(path.read_bytes()):
        if kind == "history":
            yield record.history.step.num


def is_complete(path: Path) -> bool:
    """Returns whether a .wandb file ends with the end of its session."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size // BLOCK - 1) * BLOCK)  # the start of a block, and of a record or a part of one
        tail = file.read()
    return any(kind == "exit" for kind, _ in decoded(tail, 0 if size >= 2 * BLOCK else HEADER))


def decoded(content: bytes, start: int = HEADER) -> Iterator[tuple[str | None, Any]]:
    """Yields (kind, record) of the complete records in a .wandb file, from a position on."""
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record

    for content_of_record in records_in(content, start):
        record = Record()
        try:
            record.ParseFromString(content_of_record)
        except DecodeError:
            return
        yield record.WhichOneof("record_type"), record


def records_in(content: bytes, position: int = HEADER) -> Iterator[bytes]:
    """Yields the complete records in a .wandb file: each is made of parts, none of which crosses a block's end.

    Args:
        content: of the file.
        position: where the first record begins, or the rest of one that is left out.
    """
    record: bytes | None = None  # the parts so far
    while position + RECORD.size <= len(content):
        rest = BLOCK - position % BLOCK
        if rest < RECORD.size:
            position += rest
            continue
        _, length, kind = RECORD.unpack_from(content, position)
        start = position + RECORD.size
        if kind == 0 or start + length > len(content):
            return
        if kind in (WHOLE, FIRST):
            record = b""
        if record is not None:
            record += content[start : start + length]
            if kind in (WHOLE, LAST):
                yield record
                record = None
        position = start + length
