"""Class-balanced splits, the same for every seed, and bootstrap samples."""

import numpy as np

from ..errors import DataError

BOOTSTRAP_STREAM = 2  # spawn key: independent of the random numbers of order and mixup


def class_balanced(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices (sorted) of `count` samples with the class frequencies of `labels`.

    The choice depends on the labels alone; that of a smaller count is a subset of that of a larger one.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> np.bincount(labels[class_balanced(labels, 3)]).tolist()
    [2, 1]
    """
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = labels[order]
    rank = np.empty(len(labels))  # of a sample within its class, in (0, 1)
    for label in np.unique(labels):
        members = np.flatnonzero(shuffled == label)
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(rank, kind="stable")[:count]])


def split(labels: np.ndarray, validation: float, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices (sorted) of the training samples and of the validation samples.

    Args:
        labels: (N,) integers.
        validation: fraction of the samples in the validation set, in [0, 1).
        limit: largest number of training samples, and of validation samples; None: all.

    Raises:
        DataError: one of the two sets would be empty.
    """
    count = round(validation * len(labels))
    if validation > 0 and not 0 < count < len(labels):
        raise DataError(f"data.validation={validation}: puts {count} of {len(labels)} images there; change it")
    validation_set = class_balanced(labels, count)
    train = np.setdiff1d(np.arange(len(labels)), validation_set)
    if limit is not None:
        train = train[class_balanced(labels[train], limit)]
        validation_set = validation_set[class_balanced(labels[validation_set], limit)]
    return train, validation_set


def bootstrap(count: int, seed: int) -> np.ndarray:
    """Returns the indices (count,), sorted, of a bootstrap sample of `count` samples.

    They are drawn with replacement and equal probabilities (Breiman 1996, Bagging Predictors, section 1), and depend
    on the seed alone. About 1 - 1/e = 63.2 % of the samples are among them, some of these more than once.

    >>> bootstrap(10, seed=0).tolist()
    [0, 2, 2, 4, 5, 6, 6, 7, 8, 9]

    Args:
        count: size of the set and of the sample.
        seed: of the run.
    """
    words = np.random.SeedSequence([seed], spawn_key=(BOOTSTRAP_STREAM,))
    return np.sort(np.random.default_rng(words).integers(count, size=count))
