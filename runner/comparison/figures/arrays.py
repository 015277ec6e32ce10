"""Vectors and matrices of the last evaluations, a panel for each method: the mean over its seeds."""

from pathlib import Path

import numpy as np

from ...records.metric_arrays import read_arrays
from ...reporting.figure_style import legend_width, points
from ...reporting.metric_arrays import (
    PER_CLASS,
    array_label,
    draw_array,
    draw_confusions,
    is_confusion_matrix,
    row_percentages,
)
from ...reporting.style import SavedFigure, escape_math, new_figure, save_figure
from ..methods import Comparison

ACROSS = 2  # panels side by side


def draw_array_figures(comparison: Comparison, out: Path) -> list[SavedFigure]:
    """Draws a figure for each vector and matrix that runs recorded on the test set into `out`, as PDF, SVG and PNG."""
    arrays: dict[str, dict[str, list[np.ndarray]]] = {}
    for method in comparison.methods:
        for run in method.runs:
            for name, array in read_arrays(Path(run), "test").items():
                if array.size and array.ndim <= 2:
                    arrays.setdefault(name, {}).setdefault(method.label, []).append(array)
    return [draw_means(name, by_method, out) for name, by_method in arrays.items()]


def draw_means(name: str, by_method: dict[str, list[np.ndarray]], out: Path) -> SavedFigure:
    """Draws the mean over runs of an array, a panel for each method.

    Arrays of other shapes than the method's first are left out. Of confusion matrices it is the mean percentage of each
    row, as the number of samples may differ.
    """
    across = min(ACROSS, len(by_method))
    down = -(-len(by_method) // across)
    width = round(0.72 * legend_width() / across)  # beside it stands the scale of the colours
    figure = new_figure(6.2 / across * down, 0.4 * down + 0.3)
    grid = figure.subplots(down, across, squeeze=False)
    for axis in grid.flat[len(by_method) :]:
        axis.set_visible(False)
    confusions = None
    for number, (axis, (method, arrays)) in enumerate(zip(grid.flat, by_method.items(), strict=False)):
        arrays = [array for array in arrays if array.shape == arrays[0].shape]  # noqa: PLW2901
        size = points(30 / across / max(2, len(arrays[0]) / 4))
        if arrays[0].ndim == 2 and all(map(is_confusion_matrix, arrays)):
            mean = np.mean([row_percentages(array) for array in arrays], axis=0)
            texts = [[f"{value:.0f}" for value in row] for row in mean]
            confusions = draw_confusions(axis, mean, texts, size, label=None)
            if number % across:
                axis.set(ylabel="", yticklabels=[])
            if number + across < len(by_method):
                axis.set(xlabel="", xticklabels=[])
        else:
            draw_array(axis, name, np.mean(arrays, axis=0), size)
        text = method if len(method) <= width else f"{method[: width - 1]}…"
        axis.set_title(escape_math(text), fontsize=points(9), loc="left")
    if confusions is not None:  # they have one scale
        figure.colorbar(confusions, ax=grid, location="bottom", shrink=0.6, aspect=40, label=PER_CLASS)
    label = array_label(name)
    means = ", mean over seeds" if any(len(arrays) > 1 for arrays in by_method.values()) else ""
    return save_figure(figure, name, f"{label[0].upper()}{label[1:]} on the test set{means}", out)
