"""A run on several GPUs of this machine, as a job of a sweep: its processes are started by torchrun."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from ..system.interrupt import Interrupt

PROGRAM = __package__.rpartition(".")[0]  # trainopt.runner
POLL_SECONDS = 0.5


def run_processes(count: int, typed: Sequence[str], files: Sequence[IO[bytes]], quiet: bool) -> int:
    """Runs a command line of a run in so many processes of this machine; returns the exit code.

    A signal to this process gets to them. Files that hold their GPUs stay open as long as any of them lives.

    Args:
        count: of the processes; each takes the GPU of its number among those that are visible.
        typed: the arguments of the command line.
        files: to keep open.
        quiet: whether what they print is left out, but for errors.
    """
    torchrun = [sys.executable, "-m", f"{__package__}.torchrun", "--standalone", f"--nproc-per-node={count}"]
    threads = str(max(1, torch.get_num_threads() // count))
    with Interrupt() as interrupt:
        interrupt.patient = True
        process = subprocess.Popen(
            [*torchrun, "-m", PROGRAM, *typed],
            env={"OMP_NUM_THREADS": threads, **os.environ},
            stdout=subprocess.DEVNULL if quiet else None,
            pass_fds=[file.fileno() for file in files],
        )
        is_stopped = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(POLL_SECONDS)
                return interrupt.code if interrupt.signal else code
            if interrupt.signal and not is_stopped:
                is_stopped = True
                process.send_signal(signal.SIGTERM)


def main() -> None:
    """Is torchrun, but exits without a traceback where a process failed, which says why itself, or a signal came."""
    from torch.distributed.run import main as torchrun

    try:
        torchrun()
    except ChildFailedError as error:
        sys.exit(max(1, error.get_first_failure()[1].exitcode))
    except SignalException as stop:
        sys.exit(128 + stop.sigval)


if __name__ == "__main__":
    main()
