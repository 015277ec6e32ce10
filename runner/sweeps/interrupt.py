"""Signals to stop during a sweep with jobs in other processes: the jobs write their checkpoints first."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ..system.interrupt import Interrupt
from ..system.lock import LOCK_FILE, is_dead_here, read_owner

JOB_POLL_SECONDS = 0.5  # between two looks for jobs that have just begun


class SweepInterrupt(Interrupt):
    """Handles the signals to stop a sweep while entered: the first one stops the running jobs.

    Their launcher returns when they have stopped. Where no job runs in another process, and at a second Ctrl-C,
    KeyboardInterrupt is raised as by `Interrupt`.

    Attributes:
        sweep: the folder of the sweep; None until it is planned, and for a single run.
        token: as of `stop_file`; set with the folder.
    """

    sweep: Path | None = None
    token: str = ""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        sweep = self.sweep
        self.patient = sweep is not None and (self.patient or bool(running_jobs(sweep)))
        first = not self.signal
        super()._handle(number, frame)
        if first and sweep is not None:  # and no KeyboardInterrupt was raised above
            with suppress(OSError):
                stop_file(sweep, self.token).touch()
            threading.Thread(target=_stop_jobs, args=(sweep, self.token), daemon=True).start()


def stop_file(sweep: Path, token: str) -> Path:
    """Returns the file whose existence says that a launching process starts no further job of a sweep.

    Args:
        sweep: its folder.
        token: of the launching process, on whichever machine: numbers of processes come again, and this file may stay.
    """
    return sweep / f"stopped-{token}"


def running_jobs(sweep: Path) -> list[int]:
    """Returns the numbers of the processes that run jobs of a sweep and descend from this one."""
    owners = [read_owner(lock) for lock in sweep.rglob(LOCK_FILE)]
    return [owner["pid"] for owner in owners if owner and is_dead_here(owner) is False and is_descendant(owner["pid"])]


def is_descendant(pid: int) -> bool:
    """Returns whether a process descends from this one; without /proc, whether both are in one session.

    Tasks of a cluster that run on one node are in one session.
    """
    if not Path("/proc").is_dir():
        with suppress(OSError):
            return pid != os.getpid() and os.getsid(pid) == os.getsid(0)
        return False
    parent = parent_of(pid)
    while parent and parent != os.getpid():
        parent = parent_of(parent)
    return bool(parent)


def parent_of(pid: int) -> int:
    """Returns the number of a process's parent; 0 where there is none, or the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return 0
    return int(text.rpartition(")")[2].split()[1])


def _stop_jobs(sweep: Path, token: str) -> None:
    """Sends SIGTERM to every running job once, also to those that begin later, until the stop file is removed."""
    stopped: set[int] = set()
    while stop_file(sweep, token).exists():
        for pid in set(running_jobs(sweep)) - stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            stopped.add(pid)
        time.sleep(JOB_POLL_SECONDS)
