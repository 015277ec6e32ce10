"""Vectors and matrices of an evaluation, as the accuracy of each class or a confusion matrix, as figures."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..records.metric_arrays import read_arrays
from .style import PALETTE, escape_math, save_png, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_NUMBERS = 15  # rows of a matrix whose entries are written into it
PER_CLASS = "samples of the class (%)"
MAX_TICKS = 20  # classes that are named one by one


def draw_metric_arrays(folder: Path, title: str) -> None:
    """Draws the vectors and matrices of a run's last evaluation on the test set, each NAME into NAME.png."""
    from matplotlib.figure import Figure

    for name, array in read_arrays(folder, "test").items():
        if not array.size or array.ndim > 2:
            continue
        figure = Figure(figsize=(6.4, 4 if array.ndim == 1 else 5.6), layout="constrained")
        draw_array(figure.subplots(), name, array)
        save_png(figure, folder / f"{name}.png", title)


def draw_array(axis: "Axes", name: str, array: np.ndarray, font_size: float = 8.0) -> None:
    """Draws a vector as bars, and a matrix as a heat map; of a confusion matrix, the colours are fractions of rows.

    Args:
        axis: to draw on.
        name: of the metric.
        array: (classes,) or (rows, columns).
        font_size: of numbers in a matrix.
    """
    label = escape_math(array_label(name))
    if array.ndim == 1:
        axis.bar(range(len(array)), array, color=PALETTE[0])
        axis.set_xlabel("class")
        axis.set_ylabel(label)
        if len(array) <= MAX_TICKS:
            axis.set_xticks(range(len(array)))
        style_axes(axis)
        axis.grid(visible=False, axis="x")
    elif is_confusion_matrix(array):
        draw_confusions(axis, row_percentages(array), [[f"{value:.0f}" for value in row] for row in array], font_size)
    else:
        middle = (np.nanmin(array) + np.nanmax(array)) / 2
        texts = [[f"{value:.3g}" for value in row] for row in array]
        draw_matrix(axis, array, texts, middle, label, font_size)


def draw_confusions(
    axis: "Axes", percentages: np.ndarray, texts: list[list[str]], font_size: float = 8.0, label: str | None = PER_CLASS
) -> "AxesImage":
    """Draws which percentage of each class (row) is predicted as which (column), with a text in each cell.

    Args:
        axis: to draw on.
        percentages: (classes, classes).
        texts: of its cells.
        font_size: of the texts.
        label: of the scale of colours beside it; None: no scale.

    Returns:
        The image, whose scale is from 0 to 100.
    """
    image = draw_matrix(axis, percentages, texts, 50.0, label, font_size, (0.0, 100.0))
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    return image


def draw_matrix(
    axis: "Axes",
    matrix: np.ndarray,
    texts: list[list[str]],
    middle: float,
    label: str | None,
    font_size: float,
    limits: tuple[float | None, float | None] = (None, None),
) -> "AxesImage":
    """Draws a heat map, with texts in its cells where it is small.

    Args:
        axis: to draw on.
        matrix: (rows, columns).
        texts: of its cells.
        middle: the value above which texts are white.
        label: of the scale of colours beside it; None: no scale.
        font_size: of the texts.
        limits: of the colours; None: the lowest and the highest value.
    """
    image = axis.imshow(matrix, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="equal")
    if label is not None:
        axis.figure.colorbar(image, ax=axis, shrink=0.8, label=label)
    for count, set_ticks in zip(matrix.shape, (axis.set_yticks, axis.set_xticks), strict=True):
        if count <= MAX_TICKS:
            set_ticks(range(count))
    if max(matrix.shape) > MAX_NUMBERS:
        return image
    for (row, column), value in np.ndenumerate(matrix):
        colour = "white" if value > middle else "black"
        axis.text(column, row, texts[row][column], ha="center", va="center", fontsize=font_size, color=colour)
    return image


def is_confusion_matrix(matrix: np.ndarray) -> bool:
    """Returns whether a matrix is square and holds counts."""
    return matrix.shape[0] == matrix.shape[1] and bool((matrix >= 0).all() and (matrix == matrix.round()).all())


def row_percentages(matrix: np.ndarray) -> np.ndarray:
    """Returns each entry in percent of the sum of its row; 0 in a row of zeros."""
    sums = matrix.sum(1, keepdims=True)
    return 100 * np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)


def array_label(name: str) -> str:
    """Returns the label of a vector or a matrix.

    >>> array_label("per_class_accuracy")
    'per class accuracy (%)'
    """
    return f"{name.replace('_', ' ')}{' (%)' if name == 'per_class_accuracy' else ''}"
