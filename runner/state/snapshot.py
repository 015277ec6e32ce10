"""A snapshot of a run to which it can return."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainopt.optimizers.per_sample.buffers import Buffers

from .rng import rng_state, set_rng_state
from .run import Run


class RunSnapshot:
    """Weights, buffers and states of the random number generators, as they are when this is constructed.

    Args:
        run: the run; its trained parameters and all buffers are copied.

    Attributes:
        params: the trained parameters themselves.
        weights: a copy of each.
    """

    def __init__(self, run: Run):
        self._run = run
        self.params = [p for p in run.network.parameters() if p.requires_grad]
        self.weights = [p.detach().clone() for p in self.params]
        self._buffers = Buffers(run.network)
        self._rng_state = rng_state(run.device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Returns the run to this snapshot while entered; afterwards all is bitwise as before."""
        present = RunSnapshot(self._run)
        try:
            self.restore()
            yield
        finally:
            present.restore()

    def restore(self) -> None:
        """Sets weights, buffers and random number generators to those of the snapshot."""
        with torch.no_grad():
            for p, w in zip(self.params, self.weights, strict=True):
                p.copy_(w)
        self.restore_pass()

    def restore_pass(self) -> None:
        """Sets buffers and random number generators only, for another pass with the same dropout mask."""
        self._buffers.restore()
        set_rng_state(self._rng_state, self._run.device)
