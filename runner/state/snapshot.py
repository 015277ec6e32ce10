"""A moment of a run that can be visited again: what a step started from."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from trainopt.optimizers.per_sample.buffers import Buffers

from .rng import rng_state, set_rng_state
from .run import Run


class Moment:
    """The weights, buffers and generators of a run as they are when this is made.

    Args:
        run: the run; its parameters that are trained and all of its buffers are copied.

    Attributes:
        params: the parameters that the run trains, themselves.
        weights: a copy of each.
    """

    def __init__(self, run: Run):
        self._run = run
        self.params = [p for p in run.network.parameters() if p.requires_grad]
        self.weights = [p.detach().clone() for p in self.params]
        self._buffers = Buffers(run.network)
        self._generators = rng_state(run.device)

    @contextmanager
    def visited(self) -> Iterator[None]:
        """Sets the run to this moment while entered, and then back, bit for bit, to where it was."""
        now = Moment(self._run)
        try:
            self.set(self.weights)
            yield
        finally:
            now.set(now.weights)

    def set(self, weights: list[Tensor]) -> None:
        """Sets the run to weights, with the buffers and generators of this moment."""
        with torch.no_grad():
            for p, w in zip(self.params, weights, strict=True):
                p.copy_(w)
        self.repeat()

    def repeat(self) -> None:
        """Sets buffers and generators to those of this moment, for another pass with the same dropout mask."""
        self._buffers.restore()
        set_rng_state(self._generators, self._run.device)
