"""A picture of one run: loss and accuracy over epochs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..records.metrics import read_metrics
from .style import COLOURS, FEW, MARGINS, PATH_COLOUR, is_wide, running_mean, saved, tidy

if TYPE_CHECKING:
    pass


def draw_curves(folder: Path, title: str) -> Path:
    """Draws the curves of a run's metrics.jsonl into curves.png, and returns its path."""
    from matplotlib.figure import Figure

    rows = read_metrics(folder)
    if rows and not any("top1" in row for row in rows):
        return draw_values(folder, title)
    figure = Figure(figsize=(10, 4))  # a layout that is computed would take half as long again
    axes = figure.subplots(1, 2, gridspec_kw=MARGINS)
    for axis, name, label in ((axes[0], "loss", "cross-entropy"), (axes[1], "top1", "top-1 accuracy (%)")):
        for kind, colour in COLOURS.items():
            chosen = [row for row in rows if row["kind"] == kind]
            if not chosen:
                continue
            epochs = np.array([row["epoch"] for row in chosen])
            key = "cross_entropy" if kind == "train" and name == "loss" else name
            values = np.array([row.get(key) for row in chosen], dtype=float)
            if kind == "train":
                axis.plot(epochs, values, color=colour, alpha=0.25, linewidth=0.8)
                axis.plot(epochs, running_mean(values), color=colour, label="train (batches, running mean)")
            else:
                marker = "o" if len(epochs) < FEW else None
                axis.plot(epochs, values, color=colour, marker=marker, markersize=3, label=kind)
        lines = np.concatenate([line.get_ydata() for line in axis.get_lines()])
        if name == "loss" and is_wide(lines):
            axis.set_yscale("log")
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        tidy(axis)
        axis.legend(frameon=False)
    return saved(figure, folder / "curves.png", title)


def draw_values(folder: Path, title: str) -> Path:
    """Draws what a test function was worth at each point of a run into curves.png, and returns its path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    found = [(step, value) for step, value, _ in visited(folder) if value is not None]
    steps, values = np.array(found, dtype=float).reshape(-1, 2).T
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, values, color=PATH_COLOUR, marker="o" if len(steps) < FEW else None, markersize=3)
    if len(values) and is_wide(values):
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("step")
    axis.set_ylabel("value of the function")
    tidy(axis)
    return saved(figure, folder / "curves.png", title)


def visited(folder: Path) -> list[tuple[int, float | None, list[float] | None]]:
    """Returns (steps made, value, theta) at each point of a test function that a run's rows speak of, in order.

    A training row holds the point that its step set out from, that of an evaluation where the run then was.
    """
    found: dict[int, tuple[int, float | None, list[float] | None]] = {}
    for row in read_metrics(folder):
        if row["kind"] == "train" and "value" in row:
            found.setdefault(row["step"] - 1, (row["step"] - 1, row["value"], row.get("theta")))
        elif row["kind"] == "test":
            found[row["step"]] = (row["step"], row["loss"], row.get("theta"))
    return [found[step] for step in sorted(found)]
