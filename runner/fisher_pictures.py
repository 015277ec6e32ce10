"""Pictures of the measures of Liao 2018 over an axis, of one run and of many; `fisher_plane` has the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from .comparison import AXES, Comparison
from .curves import PALETTE, is_wide, read_rows, running_mean, saved, tidy
from .fisher_plane import draw_plane
from .pictures import LABELS, Curve, Picture, curves_of, draw_lines, save

SINGLE = {"c_k": "$c_k$", "l_k": "$l_k$"}  # of a step: noisy, so that running means are drawn
SO_FAR = {"C_K": r"$\bar{C}_K$", "L_K": "$L_K$"}


def draw_fisher(folder: Path, title: str) -> Path | None:
    """Draw a run's measures over epochs and over steps into fisher.png, and return its path (figures 2 and 4).

    None where no row holds them.
    """
    from matplotlib.figure import Figure

    measures = SINGLE | SO_FAR
    rows = [row for row in read_rows(folder) if row["kind"] == "probe" and measures.keys() <= row.keys()]
    if not rows:
        return None
    figure = Figure(figsize=(10, 9), layout="constrained")
    grid = figure.subplots(len(measures), 2, sharex="col", sharey="row")
    for axes, (measure, label) in zip(grid, measures.items(), strict=True):
        values = np.array([row[measure] for row in rows], dtype=float)
        there = np.isfinite(values)
        for axis, place in zip(axes, ("epoch", "step"), strict=True):
            x, y = np.array([row[place] for row in rows], dtype=float)[there], values[there]
            if measure in SINGLE:
                axis.plot(x, y, color=PALETTE[0], alpha=0.3, linewidth=0.8)
            axis.plot(x, running_mean(y) if measure in SINGLE else y, color=PALETTE[0])
            tidy(axis)
        if there.any() and is_wide(values[there]):
            axes[0].set_yscale("log")
        axes[0].set_ylabel(label)
    grid[0, 0].set_title("faint: single steps; strong: running mean", fontsize=9, loc="left")
    for axis, place in zip(grid[-1], ("epoch", "step"), strict=True):
        axis.set_xlabel(place)
    return saved(figure, folder / "fisher.png", title)


def draw_fisher_pictures(comparison: Comparison, against: str, out: Path) -> list[Picture]:
    """Draw what the rows of the fisher probe hold into `out`, as SVG and PNG; nothing where there are none.

    Args:
        comparison: the methods and their runs.
        against: one of AXES, the horizontal axis of the lines.
        out: a folder that is there.
    """

    def curves(kind: str, column: str) -> dict[str, Curve]:
        return curves_of(comparison, kind, column, AXES[against])

    single = {label: {n: smoothed(c) for n, c in curves("probe", name).items()} for name, label in SINGLE.items()}
    so_far = {label: curves("probe", name) for name, label in SO_FAR.items()}
    measures = {label: lines for label, lines in (single | so_far).items() if lines}
    if not measures:
        return []
    figure = draw_lines(measures, comparison.methods, LABELS[against], across=2)
    pictures = [save(figure, "fisher", f"Condition and energy of the gradients against {against}", out)]
    panels = {
        "training error (%), running mean": curves("train", "top1"),
        "test error (%)": curves("test", "top1"),
    }
    errors = {label: {n: error(c) for n, c in lines.items()} for label, lines in panels.items() if lines}
    if errors:
        figure = draw_lines(errors, comparison.methods, LABELS[against])
        pictures.append(save(figure, "errors", f"Training and test error against {against}", out))
    return [*pictures, *draw_plane(comparison, out)]


def smoothed(curve: Curve) -> Curve:
    """Return a curve's running mean, with the band smoothed alike."""
    mean, low, high = (running_mean(values) for values in (curve.mean, curve.low, curve.high))
    return replace(curve, mean=mean, low=low, high=high)


def error(accuracy: Curve) -> Curve:
    """Return the curve of 100 % less an accuracy."""
    return replace(accuracy, mean=100 - accuracy.mean, low=100 - accuracy.high, high=100 - accuracy.low)
