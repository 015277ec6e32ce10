"""The Fisher measures of one run (Liao 2018) vs. epochs and vs. steps."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..records.metrics import read_metrics
from .style import PALETTE, SMOOTHED_FROM, needs_log_scale, plot_smoothed, save_png, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_STEP = {"c_k": "$c_k$", "l_k": "$l_k$"}  # noisy, so that running means are drawn
CUMULATIVE = {"C_K": r"$\bar{C}_K$", "L_K": "$L_K$"}


def draw_fisher_curves(folder: Path, title: str) -> Path | None:
    """Draws the measures vs. epochs and vs. steps into fisher.png, and returns its path (Liao 2018, figures 2, 4).

    None where no record holds them.
    """
    figure = fisher_figure(folder)
    return None if figure is None else save_png(figure, folder / "fisher.png", title)


def fisher_figure(folder: Path) -> "Figure | None":
    """Returns the figure of a run's measures vs. epochs and vs. steps; None where no record holds them."""
    from matplotlib.figure import Figure

    measures = PER_STEP | CUMULATIVE
    records = [record for record in read_metrics(folder, "probe") if measures.keys() <= record.keys()]
    if not records:
        return None
    figure = Figure(figsize=(10, 9), layout="constrained")
    grid = figure.subplots(len(measures), 2, sharex="col", sharey="row")
    for axes, (measure, label) in zip(grid, measures.items(), strict=True):
        values = np.array([record[measure] for record in records], dtype=float)
        finite = np.isfinite(values)
        for axis, x_name in zip(axes, ("epoch", "step"), strict=True):
            x, y = np.array([record[x_name] for record in records], dtype=float)[finite], values[finite]
            if measure in PER_STEP:
                plot_smoothed(axis, x, y, PALETTE[0])
            else:
                axis.plot(x, y, color=PALETTE[0])
            style_axes(axis)
        if finite.any() and needs_log_scale(values[finite]):
            axes[0].set_yscale("log")
        axes[0].set_ylabel(label)
    note = "$c_k$, $l_k$: condition and energy of the gradients of a measured step"
    if len(records) >= SMOOTHED_FROM:
        note += " (faint; solid: running mean)"
    note += "\n$\\bar{C}_K$: mean of $c_k$ so far; $L_K$: estimated sum of $l_k$ over all steps so far"
    grid[0, 0].set_title(note, fontsize=9, loc="left")
    for axis, x_name in zip(grid[-1], ("epoch", "step"), strict=True):
        axis.set_xlabel(x_name)
    return figure
