"""The process that feeds a tracker while a run is trained, as the run sees it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..system.errors import reason
from ..system.files import shown

REPORTED = 3  # the exit code of a process that reported why it failed


class TrackerProcess:
    """A process that sends a run's records to a tracker; started at once, and in a session of its own.

    Args:
        target: the tracker's class.
        settings: its arguments.
        folder: the run's.
        name: of the tracker, for lines.
    """

    def __init__(self, target: str, settings: dict[str, Any], folder: Path, name: str):
        self._name = name
        self._folder = folder
        self._lines: list[str] = []
        self._was_killed = False  # by us
        request = json.dumps([target, settings, str(folder)])
        try:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.follow", request],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # a signal for the run is none for it: it sends the last records, too
            )
        except OSError as error:
            self._process = None
            self._lines.append(self._line(f"cannot be started ({reason(error)})"))
            return
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def reports(self) -> list[str]:
        """Returns the lines that the process reported since the last call."""
        lines, self._lines = self._lines, []
        if self._process is None or self._process.stdout is None:
            return lines
        with contextlib.suppress(OSError):
            text = self._process.stdout.read() or b""  # a line is written at once
            lines += [f"{self._name}: {line}" for line in text.decode(errors="replace").splitlines()]
        code = self._process.poll()
        if code is not None:
            if code not in (0, REPORTED) and not self._was_killed:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
                lines.append(self._line(f"its process {how}"))
            self._close()
        return lines

    def end(self, seconds: float) -> None:
        """Lets the process send the rest and end; kills it after so many seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        try:
            assert self._process.stdin is not None
            with contextlib.suppress(OSError):  # a line: processes that load data may hold the other end open
                self._process.stdin.write(b"end\n")
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._kill()
            self._lines.append(self._line(f"did not take all records within {seconds:g} s"))
        except KeyboardInterrupt:
            self._kill()
            self._lines.append(self._line("was stopped"))
            raise

    def _kill(self) -> None:
        assert self._process is not None
        self._was_killed = True
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with what it has started
        self._process.wait()
        self._lines = self.reports()

    def _close(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            self._process = None

    def _line(self, problem: str) -> str:
        return f"{self._name}: {problem}{sent_later(self._name, self._folder)}"


def sent_later(name: str, folder: Path) -> str:
    """Returns the end of a line about a tracker that failed."""
    return f"; the run is not affected; trainopt sync {shown(folder)} --to {name} sends the rest"
