"""A placeholder for networks that are trained without data."""

import numpy as np

from .arrays import Arrays


class NoData(Arrays):
    """A training set and a test set of one zero pixel each: an epoch is one step.

    For networks that do not depend on their inputs, such as test functions.
    """

    def __init__(self) -> None:
        pixel, label = np.zeros((1, 1, 1, 1), dtype=np.uint8), np.zeros(1, dtype=np.int64)
        super().__init__(pixel, label, pixel, label, where="none")
