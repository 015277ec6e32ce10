"""Ctrl-C and SIGTERM during a sweep whose jobs other processes run: they write their checkpoints first."""

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ..system.interrupt import Interrupt
from ..system.lock import NAME, is_dead_here, read_owner

AGAIN_SECONDS = 0.5  # between looks for jobs that have just begun


class SweepInterrupt(Interrupt):
    """While entered, the first signal tells the jobs that run to stop; their launcher comes back when they have.

    Where none runs beside this process, and at a second Ctrl-C, it raises KeyboardInterrupt as `Interrupt` does.

    Attributes:
        sweep: the folder of the sweep; None until it is planned, and for a single run.
    """

    sweep: Path | None = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        sweep = self.sweep
        self.patient = sweep is not None and (self.patient or bool(running_beside(sweep)))
        first = not self.signal
        super()._note(number, frame)
        if first and sweep is not None:  # patient, or that had raised
            with suppress(OSError):
                stop_mark(sweep, os.getpid()).touch()
            threading.Thread(target=_tell_jobs, args=(sweep,), daemon=True).start()


def stop_mark(sweep: Path, launcher: int) -> Path:
    """Returns the file that says that a process begins no further job of a sweep."""
    return sweep / f"stopped-{launcher}"


def running_beside(sweep: Path) -> list[int]:
    """Returns the numbers of the processes that run jobs of a sweep, on this machine and in this session."""
    found = []
    for lock in sweep.rglob(NAME):
        owner = read_owner(lock)
        if owner and is_dead_here(owner) is False and owner["pid"] != os.getpid():
            with suppress(OSError):
                if os.getsid(owner["pid"]) == os.getsid(0):
                    found.append(owner["pid"])
    return found


def _tell_jobs(sweep: Path) -> None:
    """Sends SIGTERM to every job, once; also to one that begins only now."""
    told: set[int] = set()
    while stop_mark(sweep, os.getpid()).exists():
        for pid in set(running_beside(sweep)) - told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            told.add(pid)
        time.sleep(AGAIN_SECONDS)
