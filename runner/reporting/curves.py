"""The learning curves of one run: loss and accuracy vs. epochs."""

from pathlib import Path

import numpy as np

from ..records.metrics import read_metrics
from .style import (
    MARGINS,
    MARKER_LIMIT,
    SET_COLOURS,
    TRAJECTORY_COLOUR,
    needs_log_scale,
    plot_set,
    save_png,
    style_axes,
)


def draw_learning_curves(folder: Path, title: str) -> Path:
    """Draws the learning curves of a run into curves.png, and returns its path."""
    from matplotlib.figure import Figure

    records = read_metrics(folder)
    if records and not any("top1" in record for record in records):
        return draw_function_values(folder, title)
    figure = Figure(figsize=(10, 4))  # a layout that is computed would take half as long again
    axes = figure.subplots(1, 2, gridspec_kw=MARGINS)
    for axis, name, label in ((axes[0], "loss", "cross-entropy"), (axes[1], "top1", "top-1 accuracy (%)")):
        for kind in SET_COLOURS:
            of_kind = [record for record in records if record["kind"] == kind]
            if not of_kind:
                continue
            epochs = np.array([record["epoch"] for record in of_kind])
            key = "cross_entropy" if kind == "train" and name == "loss" else name
            values = np.array([record.get(key) for record in of_kind], dtype=float)
            plot_set(axis, kind, epochs, values)
        lines = np.concatenate([line.get_ydata() for line in axis.get_lines()])
        if name == "loss" and needs_log_scale(lines):
            axis.set_yscale("log")
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        style_axes(axis)
        axis.legend(frameon=False)
    return save_png(figure, folder / "curves.png", title)


def draw_function_values(folder: Path, title: str) -> Path:
    """Draws the values of a test function at each point of a run into curves.png, and returns its path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    points = [(step, value) for step, value, _ in function_trajectory(folder) if value is not None]
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    marker = "o" if len(steps) < MARKER_LIMIT else None
    axis.plot(steps, values, color=TRAJECTORY_COLOUR, marker=marker, markersize=3)
    if len(values) and needs_log_scale(values):
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("step")
    axis.set_ylabel("value of the function")
    style_axes(axis)
    return save_png(figure, folder / "curves.png", title)


def function_trajectory(folder: Path) -> list[tuple[int, float | None, list[float] | None]]:
    """Returns (step, value, theta) at each point of a test function in a run's records, in order.

    A training record holds the point before its step, an evaluation the point after it.
    """
    points: dict[int, tuple[int, float | None, list[float] | None]] = {}
    for record in read_metrics(folder, "train", "test"):
        step, theta = record["step"], record.get("theta")
        if record["kind"] == "test":
            points[step] = (step, record["loss"], theta)
        elif "value" in record:
            points.setdefault(step - 1, (step - 1, record["value"], theta))
    return [points[step] for step in sorted(points)]
