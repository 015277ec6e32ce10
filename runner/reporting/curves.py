"""The learning curves of one run: loss and accuracy vs. epochs."""

from pathlib import Path

import numpy as np

from ..records.logger import AXIS_KEYS
from ..records.metrics import Record, read_metrics
from ..system.display import ACCURACIES, metric_form
from .loss_terms import MAIN
from .style import (
    MARGINS,
    MARKER_LIMIT,
    OFF_AXIS,
    SET_COLOURS,
    TRAJECTORY_COLOUR,
    fit_percentages,
    needs_log_scale,
    plot_set,
    save_png,
    set_note,
    style_axes,
)

NO_METRICS = (*AXIS_KEYS, "loss", "checkpoint")  # values of evaluations
MAX_PANELS = 4  # beside that of the loss


def draw_learning_curves(folder: Path, title: str) -> Path:
    """Draws the learning curves of a run into curves.png, and returns its path."""
    from matplotlib.figure import Figure

    records = read_metrics(folder)
    of_training = [record for record in records if record["kind"] == "train"] or records  # none: it diverged at once
    if records and all("theta" in record or "value" in record for record in of_training):
        return draw_function_values(folder, title)
    main = next((name for name in MAIN for record in records if name in record), "cross_entropy")
    panels = [("loss", MAIN[main]), *((name, axis_label(name)) for name in metrics_drawn(records))]
    figure = Figure(figsize=(5 * len(panels), 4))  # a layout that is computed would take half as long again
    sides = {"left": MARGINS["left"] * 2 / len(panels), "right": 1 - (1 - MARGINS["right"]) * 2 / len(panels)}
    figure.subplots_adjust(**(MARGINS | sides))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, label) in zip(axes, panels, strict=True):
        for kind in SET_COLOURS:
            of_kind = [record for record in records if record["kind"] == kind]
            key = main if kind == "train" and name == "loss" else name
            if not any(key in record for record in of_kind):
                continue
            epochs = np.array([record["epoch"] for record in of_kind])
            values = np.array([record.get(key) for record in of_kind], dtype=float)
            plot_set(axis, kind, epochs, values)
        lines = [np.asarray(line.get_xydata()).T for line in axis.get_lines()]
        if name == "loss" and needs_log_scale(np.concatenate([y for _, y in lines])):
            axis.set_yscale("log")
        if "%" in label and fit_percentages(axis, [(x, y, y) for x, y in lines]):
            set_note(axis, OFF_AXIS)
        axis.set_xlabel("epoch")
        axis.set_ylabel(label)
        style_axes(axis)
        axis.legend(frameon=False)
    return save_png(figure, folder / "curves.png", title)


def metrics_drawn(records: list[Record]) -> list[str]:
    """Returns the metrics of evaluations that have a panel: those that are numbers, except for top5 beside top1."""
    evaluations = [record for record in records if record["kind"] in ("validation", "test")]
    names = dict.fromkeys(
        name
        for record in evaluations
        for name, value in record.items()
        if isinstance(value, int | float) and name not in NO_METRICS and not name.startswith("raw_")
    )
    return [name for name in names if name != "top5" or "top1" not in names][:MAX_PANELS]


def axis_label(name: str) -> str:
    """Returns the label of a metric's axis.

    >>> axis_label("top1"), axis_label("rmse")
    ('top-1 accuracy (%)', 'rmse')
    """
    label, _, unit = metric_form(name)
    return f"{label}{' accuracy' if name in ACCURACIES else ''}{f' ({unit.strip()})' if unit else ''}"


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
