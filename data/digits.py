"""Scikit-learn's digits: real images that need no download."""

import numpy as np

from .arrays import Arrays
from .splits import take_out_test_set

TEST_SIZE = 360


def digits() -> Arrays:
    """Return the 1,797 handwritten 8x8 digits of scikit-learn, 360 of them (class-balanced) as the test set.

    They are the test part of the UCI data set "Optical Recognition of Handwritten Digits" (Alpaydin and
    Kaynak 1998); grey levels 0 to 16 are scaled to 0 to 255.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return take_out_test_set(pixels, labels, TEST_SIZE, where="digits")
