"""A picture of one run: loss and accuracy over epochs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow, the faintest on white, comes last
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
COLOURS = {"train": PALETTE[0], "validation": PALETTE[2], "test": PALETTE[1]}
PATH_COLOUR = COLOURS["test"]  # of a test function

WIDE = 30  # a loss that falls by such a factor is drawn on a logarithmic axis
FEW = 40  # points, below which each is marked
MARGINS = {"left": 0.07, "right": 0.985, "bottom": 0.12, "top": 0.91, "wspace": 0.17}  # of the picture


def draw_curves(folder: Path, title: str) -> Path:
    """Draw the curves of a run's metrics.jsonl into curves.png, and return its path."""
    from matplotlib.figure import Figure

    rows = read_rows(folder)
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


def tidy(axis: "Axes") -> None:
    """Give a panel its grid, and take away the lines above and to the right of it."""
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def saved(figure: "Figure", path: Path, title: str) -> Path:
    """Write a figure with its title and return its path."""
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def draw_values(folder: Path, title: str) -> Path:
    """Draw what a test function was worth at each point of a run into curves.png, and return its path."""
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
    """Return (steps made, value, theta) at each point of a test function that a run's rows speak of, in order.

    A training row holds the point that its step set out from, that of an evaluation where the run then was.
    """
    found: dict[int, tuple[int, float | None, list[float] | None]] = {}
    for row in read_rows(folder):
        if row["kind"] == "train" and "value" in row:
            found.setdefault(row["step"] - 1, (row["step"] - 1, row["value"], row.get("theta")))
        elif row["kind"] == "test":
            found[row["step"]] = (row["step"], row["loss"], row.get("theta"))
    return [found[step] for step in sorted(found)]


def is_wide(values: np.ndarray) -> bool:
    """Say whether positive values need a logarithmic axis."""
    return bool(values.min() > 0 and values.max() > WIDE * values.min())


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's metrics.jsonl."""
    with open(folder / "metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each value and those around it, over a twentieth of the whole; shorter at the ends.

    >>> running_mean(np.array([0.0, 2.0, 4.0])).tolist()
    [0.0, 2.0, 4.0]
    """
    half = len(values) // 40
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    reach = np.minimum(half, np.minimum(index, len(values) - 1 - index))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
