"""Where a run's time goes: training, evaluation, probes, checkpoints, the rest, each on a clock of its own.

A run that keeps the features of a frozen backbone has a further clock for computing and reading them: `features`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import torch

NAMES = ("train", "evaluation", "probes", "checkpoint", "other")


class Clocks:
    """One clock runs at a time, in seconds. CUDA is synchronised where a clock is read or changed.

    Args:
        device: whose pending work belongs to the clock that runs.
    """

    def __init__(self, device: torch.device):
        self._cuda = device if device.type == "cuda" else None
        self.seconds = dict.fromkeys(NAMES, 0.0)
        self._running = "other"
        self._since = perf_counter()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Lets a clock run instead of the one that does."""
        before = self._running
        self._charge()
        self._running = name
        try:
            yield
        finally:
            self._charge()
            self._running = before

    def _charge(self) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
        now = perf_counter()
        self.seconds[self._running] = self.seconds.get(self._running, 0.0) + now - self._since
        self._since = now

    def state_dict(self) -> dict[str, float]:
        """Returns the seconds of every clock."""
        self._charge()
        return dict(self.seconds)

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Goes on from the seconds of an earlier part of the run; what ran since the start is kept."""
        self._charge()
        for name, seconds in state.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
