"""The time that a run spends on training, evaluation, probes, checkpoints, and the rest.

A run that stores the features of a frozen backbone has a further clock for computing and reading them: `features`; one
with a compiled network has one for compiling it: `compile`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

NAMES = ("train", "evaluation", "probes", "checkpoint", "other")


class Clocks:
    """Clocks of which one runs at a time.

    Args:
        device: a GPU is synchronised whenever another clock runs, so that its pending work counts for the one before.
        now: returns the time in seconds.

    Attributes:
        seconds: by clock, up to the last time that another one began to run.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] = perf_counter):
        self._now = now
        self._cuda = device if device.type == "cuda" else None
        self.seconds = dict.fromkeys(NAMES, 0.0)
        self._running = "other"
        self._since = now()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Lets a clock run while entered, in place of the one that was running."""
        before = self._running
        self._charge()
        self._running = name
        try:
            yield
        finally:
            self._charge()
            self._running = before

    def read(self, name: str) -> float:
        """Returns the seconds of a clock up to now."""
        self._charge()
        return self.seconds[name]

    def _charge(self) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = self._now()
        self.seconds[self._running] = self.seconds.get(self._running, 0.0) + now - self._since
        self._since = now

    def state_dict(self) -> dict[str, float]:
        """Returns the seconds of every clock."""
        self._charge()
        return dict(self.seconds)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Adds the seconds of an earlier part of the run."""
        self._charge()
        for name, seconds in state.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
