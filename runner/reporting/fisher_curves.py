"""A picture of one run: the measures of Liao 2018 over epochs and over steps."""

from pathlib import Path

import numpy as np

from ..records.metrics import read_metrics
from .style import PALETTE, is_wide, running_mean, saved, tidy

SINGLE = {"c_k": "$c_k$", "l_k": "$l_k$"}  # of a step: noisy, so that running means are drawn
SO_FAR = {"C_K": r"$\bar{C}_K$", "L_K": "$L_K$"}


def draw_fisher(folder: Path, title: str) -> Path | None:
    """Draws a run's measures over epochs and over steps into fisher.png, and returns its path (figures 2 and 4).

    None where no row holds them.
    """
    from matplotlib.figure import Figure

    measures = SINGLE | SO_FAR
    rows = [row for row in read_metrics(folder, "probe") if measures.keys() <= row.keys()]
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
