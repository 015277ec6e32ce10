"""Choices of images that are class-balanced and the same for every seed."""

import numpy as np

from ..errors import DataError
from .arrays import Arrays

BOOTSTRAP_STREAM = 2  # keeps what bootstrap samples are drawn from apart from what order and mixup are


def class_balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices (sorted) of `count` samples whose classes are shared out as in `labels`.

    The choice is a function of the labels alone; a smaller count chooses a subset of a larger one's.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> np.bincount(labels[class_balanced(labels, 3)]).tolist()
    [2, 1]
    """
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = labels[order]
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(place, kind="stable")[:count]])


def split(labels: np.ndarray, validation: float, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and of the held-out samples (sorted).

    Args:
        labels: (N,) integers.
        validation: share that is held out, in [0, 1).
        limit: at most so many training and so many held-out samples; None: all.
    """
    count = round(validation * len(labels))
    if validation > 0 and not 0 < count < len(labels):
        raise DataError(f"data.validation={validation}: holds out {count} of {len(labels)} images")
    held_out = class_balanced(labels, count)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)
    if limit is not None:
        rest = rest[class_balanced(labels[rest], limit)]
        held_out = held_out[class_balanced(labels[held_out], limit)]
    return rest, held_out


def bootstrap(count: int, seed: int) -> np.ndarray:
    """Returns which of `count` samples a bootstrap sample of the same size holds: numbers (count,), rising.

    They are drawn with replacement, each with the same probability (Breiman 1996, Bagging Predictors, section 1),
    by the seed alone: about 1 - 1/e = 63.2 % of the samples are among them, some of these more than once.

    >>> bootstrap(10, seed=0).tolist()
    [0, 2, 2, 4, 5, 6, 6, 7, 8, 9]

    Args:
        count: of the samples to draw from, and of those that are drawn.
        seed: of the run.
    """
    words = np.random.SeedSequence([seed], spawn_key=(BOOTSTRAP_STREAM,))
    return np.sort(np.random.default_rng(words).integers(count, size=count))


def take_out_test_set(images: np.ndarray, labels: np.ndarray, count: int, where: str) -> Arrays:
    """Returns a data set whose test images are a class-balanced choice of `count` of these."""
    test = class_balanced(labels, count)
    train = np.setdiff1d(np.arange(len(labels)), test)
    return Arrays(images[train], labels[train], images[test], labels[test], where=where)
