"""Checks of inputs and targets in memory, and the types that they get."""

import numpy as np

from ..errors import DataError

MOST_COLORS = 4  # channels of colour images, with transparency: a longer last axis is not that of channels
IMAGE_DIMS = 4  # of images (N, H, W, C)


def are_images(inputs: np.ndarray) -> bool:
    """Returns whether inputs are images: uint8 (N, H, W, C) or (N, H, W), or real numbers (N, H, W, C)."""
    if inputs.dtype == np.uint8:
        return inputs.ndim in (IMAGE_DIMS - 1, IMAGE_DIMS)
    return inputs.ndim == IMAGE_DIMS and np.issubdtype(inputs.dtype, np.floating)


def checked_inputs(inputs: np.ndarray, where: str) -> np.ndarray:
    """Returns inputs as images (N, H, W, C) of uint8 or float32, as float32 (N, ...), or as int64 (N, F).

    Args:
        inputs: as they were read.
        where: the data and the name of the array, with which messages begin.

    Raises:
        DataError: they have another form, or values that are not finite.
    """
    if are_images(inputs) and inputs.ndim < IMAGE_DIMS:
        inputs = inputs[..., None]
    form = f"{inputs.dtype} of shape {inputs.shape}"
    is_real = np.issubdtype(inputs.dtype, np.floating)
    is_table = inputs.ndim == 2 and (np.issubdtype(inputs.dtype, np.integer) or inputs.dtype == bool)
    if not (are_images(inputs) or is_table or (is_real and inputs.ndim >= 2)) or 0 in inputs.shape[1:]:
        raise DataError(
            f"{where} is {form}, must be images, uint8 of shape (N, H, W, C) or (N, H, W) or floats of shape"
            " (N, H, W, C), or other inputs, floats of shape (N, ...) or integers of shape (N, F)"
        )
    if len(inputs) == 0:
        raise DataError(f"{where} has no {'images' if are_images(inputs) else 'inputs'}; one at least is needed")
    if are_images(inputs) and inputs.shape[3] > MOST_COLORS and inputs.shape[1] in (1, 3, MOST_COLORS):
        name = where.rpartition(" ")[2]
        raise DataError(
            f"{where} of shape {inputs.shape} has its channels first, must be (N, H, W, C):"
            f" {name}.transpose(0, 2, 3, 1)"
        )
    if is_real:
        return _finite(inputs.astype(np.float32, copy=False), where)
    return inputs if are_images(inputs) else inputs.astype(np.int64, copy=False)


def checked_targets(targets: np.ndarray, are_classes: bool, where: str) -> np.ndarray:
    """Returns targets: classes as int64 (N,), real numbers as float32 (N, D) or (N, ...), other integers as int64.

    Args:
        targets: as they were read.
        are_classes: whether integers of shape (N,) are classes; else they are real numbers too.
        where: the data and the name of the array, with which messages begin.

    Raises:
        DataError: they have another form, or values that are not finite.
    """
    is_real = np.issubdtype(targets.dtype, np.floating)
    is_whole = np.issubdtype(targets.dtype, np.integer) or targets.dtype == bool
    is_column = is_whole and targets.ndim == 2 and targets.shape[1] == 1
    if targets.ndim < 1 or not (is_real or is_whole) or (is_column and are_classes) or 0 in targets.shape[1:]:
        raise DataError(
            f"{where} is {targets.dtype} of shape {targets.shape}, must be integers of shape (N,), which are classes,"
            " or floats of shape (N,) or (N, D)"
        )
    if is_whole and (targets.ndim > 1 or are_classes):
        return targets.astype(np.int64, copy=False)
    values = _finite(targets.astype(np.float32, copy=False), where)
    return values[:, None] if values.ndim == 1 else values


def count_classes(labels: np.ndarray, where: str) -> int:
    """Returns the number of classes, whose labels must be 0, 1, 2, ... without a gap."""
    classes = np.unique(labels)
    if classes[0] < 0 or classes[-1] == len(classes) - 1:  # what is below 0 is refused with the range
        return int(classes[-1]) + 1
    first = ", ".join(map(str, classes[:3])) + (", …" if len(classes) > 3 else "")
    raise DataError(
        f"{where}: y_train holds {len(classes)} different labels, {first} up to {classes[-1]}, must be 0 to"
        f" {len(classes) - 1}, as np.unique(y_train, return_inverse=True)[1] makes them;"
        " num_classes says how many there are where classes have no training images; real numbers must be floats"
    )


def _finite(values: np.ndarray, where: str) -> np.ndarray:
    """Returns values; DataError where some are not finite. Those in a mapped file are not read for that."""
    if not isinstance(values, np.memmap) and not np.isfinite(values).all():
        raise DataError(f"{where} holds values that are nan or infinite, must be finite")
    return values
