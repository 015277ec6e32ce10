"""Ctrl-C and SIGTERM: the step is finished and a checkpoint written. A second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Handles Ctrl-C and SIGTERM while entered. A signal raises KeyboardInterrupt unless `patient` is true.

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
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def code(self) -> int:
        """The exit code: 128 + the number of the signal."""
        return 128 + (self.signal or signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self._had_ctrl_c and number == signal.SIGINT
        self._had_ctrl_c |= number == signal.SIGINT
        self.signal = self.signal or number
        if again or not self.patient:
            raise KeyboardInterrupt
