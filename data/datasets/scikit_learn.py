"""Data sets that come with scikit-learn, read from its folder: no download.

The files are read as sklearn.datasets does, without importing scikit-learn, which takes as long as importing torch.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..errors import DataError
from .arrays import Arrays
from .splits import class_balanced

DIGITS_TEST_SIZE = 360  # the test sets are a fifth
BREAST_CANCER_TEST_SIZE = 114
DIABETES_TEST_SIZE = 88
STRATA = 10  # ranges of a real-valued target, each with as many samples, that the test set is balanced over


def digits() -> Arrays:
    """Returns the 1,797 handwritten 8x8 digits of scikit-learn, 360 of them (class-balanced) as the test set.

    They are the test part of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak 1998); gray levels 0 to 16 are scaled to 0 to 255.
    """
    table = _table("digits.csv.gz", ",")
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    train, test = _parts(labels, DIGITS_TEST_SIZE)
    return Arrays(pixels[train], labels[train], pixels[test], labels[test], where="digits")


def breast_cancer() -> Arrays:
    """Returns the 569 tumours of scikit-learn, 114 of them (class-balanced) as the test set.

    They are the UCI data set "Breast Cancer Wisconsin (Diagnostic)" (Street, Wolberg and Mangasarian 1993): 30 features
    of the cell nuclei in an image, float32 (N, 30), and the classes 0, malignant, and 1, benign. Each feature has mean
    0 and variance 1 over the training set.
    """
    table = _table("breast_cancer.csv", ",", header_lines=1)
    labels = table[:, -1].astype(np.int64)
    train, test = _parts(labels, BREAST_CANCER_TEST_SIZE)
    inputs = _standardised(table[:, :-1], train)
    return Arrays(inputs[train], labels[train], inputs[test], labels[test], where="breast_cancer")


def diabetes() -> Arrays:
    """Returns the 442 patients of scikit-learn, 88 of them as the test set: a regression.

    Ten features float32 (N, 10), age, sex, body mass index, blood pressure and six of the blood serum, and as the
    target (N, 1) a measure of how far the disease has progressed one year later, 25 to 346 (Efron, Hastie, Johnstone
    and Tibshirani 2004). Features and target have mean 0 and variance 1 over the training set: an rmse of 1 is that of
    the mean of the training targets, and one unit is 77 of the original measure. The test set is the same for every
    seed, and balanced over the deciles of the target.
    """
    features, target = _table("diabetes_data_raw.csv.gz"), _table("diabetes_target.csv.gz")
    decile = np.argsort(np.argsort(target, kind="stable")) * STRATA // len(target)
    train, test = _parts(decile, DIABETES_TEST_SIZE)
    inputs, targets = _standardised(features, train), _standardised(target[:, None], train)
    return Arrays(inputs[train], targets[train], inputs[test], targets[test], where="diabetes", num_classes=None)


@cache
def _table(name: str, delimiter: str | None = None, header_lines: int = 0) -> np.ndarray:
    """Returns the numbers of one of scikit-learn's files, float64, read once a process."""
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"{name.partition('.')[0]}: scikit-learn is not installed; pip install scikit-learn")
    file = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / name
    return np.loadtxt(file, delimiter=delimiter, skiprows=header_lines)


def _parts(strata: np.ndarray, test_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices (sorted) of the training samples and of the test samples, balanced over strata (N,)."""
    test = class_balanced(strata, test_size)
    return np.setdiff1d(np.arange(len(strata)), test), test


def _standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Returns values (N, D) with mean 0 and variance 1 over the training samples."""
    return (values - values[train].mean(0)) / values[train].std(0)
