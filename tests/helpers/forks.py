"""The command line in a copy of the test's process: a real process to kill, without the seconds of imports."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from trainopt.runner import cli
from trainopt.runner.sweeps.run_job import import_once
from trainopt.runner.system.isolation import end_workers


def forked(*arguments: str, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """Run a command in a folder; return its exit code, or minus the number of the signal that ended it.

    Its output is added to `output` in the folder. `before` is called in the copy.
    """
    pid = start_fork(*arguments, folder=folder, before=before)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def start_fork(*arguments: str, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """As `forked`, without waiting; return the process's number."""
    import_once()
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(folder)
        with open("output", "a") as output:
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["trainopt", *arguments]
        before()
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        end_workers()
        os._exit(code)


def others_in(folder: Path) -> list[int]:
    """Return the processes but this one that work in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # somebody else's, or just gone
            if place.readlink() == folder and place.parent.name != str(os.getpid()):
                found.append(int(place.parent.name))
    return found
