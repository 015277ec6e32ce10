"""Scikit-learn's digits: images that need no download."""

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DataError
from .arrays import Arrays
from .splits import take_out_test_set

TEST_SIZE = 360


def digits() -> Arrays:
    """Returns the 1,797 handwritten 8x8 digits of scikit-learn, 360 of them (class-balanced) as the test set.

    They are the test part of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak 1998); gray levels 0 to 16 are scaled to 0 to 255. The file is read from scikit-learn's folder as
    `sklearn.datasets.load_digits` does, without importing scikit-learn, which takes as long as importing torch.
    """
    table = _table()
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return take_out_test_set(pixels, table[:, -1].astype(np.int64), TEST_SIZE, where="digits")


@cache
def _table() -> np.ndarray:
    """Returns the pixels and the label of each image (1797, 65), read once a process."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError("digits: scikit-learn is not installed; pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return np.loadtxt(lines, delimiter=",")
