"""The random numbers of a sample, as functions of (seed, epoch, index)."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seeds what transforms draw from, of torch (on the CPU), NumPy and Python, by a sample.

    Args:
        seed: of the run.
        epoch: number of the epoch.
        index: of the sample in its set.
    """
    words = np.random.SeedSequence([seed, epoch, index]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(words[1])
    torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed the GPU's too


@contextmanager
def preserved() -> Iterator[None]:
    """Restores the states of the generators that `seed_sample` seeds; that takes several times as long as to seed."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def seeded(seed: int, epoch: int, index: int) -> Iterator[None]:
    """Seeds the generators of transforms as `seed_sample`; restores their states afterwards.

    >>> def draw(index):
    ...     with seeded(seed=3, epoch=1, index=index):
    ...         return torch.rand(()).item(), np.random.rand(), random.random()
    >>> draw(0) == draw(0), draw(0) == draw(1)
    (True, False)
    """
    with preserved():
        seed_sample(seed, epoch, index)
        yield
