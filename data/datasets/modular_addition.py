"""Addition modulo p, as a table of equations."""

import numpy as np

from .arrays import Arrays
from .splits import class_balanced


def modular_addition(p: int = 97, train_fraction: float = 0.5) -> Arrays:
    """Returns all p^2 equations a + b = c modulo p: sequences of tokens [a, b, =] (N, 3) and classes c.

    Networks that have learned the training equations by heart begin to get the others right much later ("grokking",
    Power et al. 2022, arXiv 2201.02177). The token of the equals sign is p. The training set is the same for every
    seed, and has the same number of equations of each c, up to one.

    >>> data = modular_addition(5, 0.4)
    >>> data.x_train.shape, data.x_test.shape
    ((10, 3), (15, 3))
    >>> data.x_test[1].tolist(), data.y_test[1].tolist()
    ([0, 2, 5], 2)

    Args:
        p: the modulus, and the number of classes (Power et al.: 97; Nanda et al. 2023, arXiv 2301.05217: 113).
        train_fraction: fraction of the equations in the training set (Power et al.: 0.5; Nanda et al.: 0.3).

    Raises:
        ValueError: p is below 2, or one of the two sets would be empty.
    """
    if p < 2:
        raise ValueError(f"p={p}: must be >= 2")
    count = round(train_fraction * p * p)
    if not 0 < count < p * p:
        raise ValueError(f"train_fraction={train_fraction}: puts {count} of {p * p} equations into training; change it")
    a, b = np.divmod(np.arange(p * p), p)
    inputs, targets = np.stack([a, b, np.full_like(a, p)], axis=1), (a + b) % p
    train = class_balanced(targets, count)
    test = np.setdiff1d(np.arange(p * p), train)
    return Arrays(inputs[train], targets[train], inputs[test], targets[test], where="modular_addition", num_classes=p)
