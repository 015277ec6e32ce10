"""A picture of one run: loss and accuracy over epochs."""

import json
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's colours, which colour-blind readers can tell apart
COLOURS = {"train": "#0072B2", "validation": "#009E73", "test": "#D55E00"}

WIDE = 30  # a loss that falls by such a factor is drawn on a logarithmic axis
FEW = 40  # points, below which each is marked


def draw_curves(folder: Path, title: str) -> Path:
    """Draw the curves of a run's metrics.jsonl into curves.png, and return its path."""
    from matplotlib.figure import Figure

    rows = read_rows(folder)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
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
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


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
