"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, stop. A second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While entered, remembers the first signal in `signal` (0: none); exit code is 128 + signal.

    A signal raises KeyboardInterrupt unless `patient` is true, and the second Ctrl-C does in any case.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.patient = False
        self._typed = False  # whether there was a Ctrl-C
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def code(self) -> int:
        """The exit code that says which signal ended the run."""
        return 128 + (self.signal or signal.SIGINT)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        again = self._typed and number == signal.SIGINT
        self._typed |= number == signal.SIGINT
        self.signal = self.signal or number
        if again or not self.patient:
            raise KeyboardInterrupt
