"""The random numbers of a sample, as functions of (seed, epoch, index)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seeds what transforms draw from, of torch (on the CPU), NumPy and Python, by a sample; restores it afterwards.

    >>> def draw(index):
    ...     with seeded(seed=3, epoch=1, index=index):
    ...         return torch.rand(()).item(), np.random.rand(), random.random()
    >>> draw(0) == draw(0), draw(0) == draw(1)
    (True, False)

    Args:
        seed: of the run.
        epoch: number of the epoch.
        index: of the sample in its set.
    """
    words = np.random.SeedSequence([seed, epoch, index]).generate_state(3)
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed the GPU's too
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
