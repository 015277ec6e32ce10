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
    """

    sweep: Path | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        sweep = self.sweep
        self.patient = sweep is not None and (self.patient or bool(running_jobs(sweep)))
        first = not self.signal
        super()._handle(number, frame)
        if first and sweep is not None:  # and no KeyboardInterrupt was raised above
            with suppress(OSError):
                stop_file(sweep, os.getpid()).touch()
            threading.Thread(target=_stop_jobs, args=(sweep,), daemon=True).start()


def stop_file(sweep: Path, launcher: int) -> Path:
    """Returns the file whose existence says that a launching process starts no further job of a sweep."""
    return sweep / f"stopped-{launcher}"


def running_jobs(sweep: Path) -> list[int]:
    """Returns the numbers of the other processes that run jobs of a sweep, on this machine and in this session."""
    pids = []
    for lock in sweep.rglob(LOCK_FILE):
        owner = read_owner(lock)
        if owner and is_dead_here(owner) is False and owner["pid"] != os.getpid():
            with suppress(OSError):
                if os.getsid(owner["pid"]) == os.getsid(0):
                    pids.append(owner["pid"])
    return pids


def _stop_jobs(sweep: Path) -> None:
    """Sends SIGTERM to every running job once, also to those that begin later, until the stop file is removed."""
    stopped: set[int] = set()
    while stop_file(sweep, os.getpid()).exists():
        for pid in set(running_jobs(sweep)) - stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            stopped.add(pid)
        time.sleep(JOB_POLL_SECONDS)
