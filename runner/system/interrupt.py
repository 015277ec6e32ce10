"""Signals to stop: the step is finished and a checkpoint written. A second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType
from typing import Any, Self


def stop_signals() -> tuple[signal.Signals, ...]:
    """Returns the signals that stop a run: Ctrl-C, SIGTERM, and SIGHUP unless it is ignored, as below nohup.

    SIGHUP comes where the terminal is lost; Windows has none.
    """
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, signal.SIGHUP


class Interrupt:
    """Handles `stop_signals` while entered. A signal raises KeyboardInterrupt unless `patient` is true.

    An error that leaves the block after a signal is replaced by KeyboardInterrupt: libraries turn that into errors of
    their own, and miss processes that the signal has ended as well. Its argument is the number of the signal.

    Attributes:
        signal: the number of the first signal; 0: none came.
        patient: whether who entered looks at `signal` by itself; a second Ctrl-C raises KeyboardInterrupt even then.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.patient = False
        self._had_ctrl_c = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in stop_signals()}
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.signal and isinstance(error, Exception):
            raise KeyboardInterrupt(self.signal) from error

    @property
    def code(self) -> int:
        """The exit code: 128 + the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def agree(self) -> None:
        """Takes a signal of another process of the run: there is none."""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self._had_ctrl_c and number == signal.SIGINT
        self._had_ctrl_c |= number == signal.SIGINT
        self.signal = self.signal or number
        if again or not self.patient:
            raise KeyboardInterrupt(self.signal)
