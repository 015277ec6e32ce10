"""Figures of the loss landscape: metrics on lines between checkpoints, filled contours on a plane."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from ..reporting.figure_style import LEGEND_WIDTH
from ..reporting.style import (
    SET_COLOURS,
    TRAJECTORY_COLOUR,
    SavedFigure,
    escape_math,
    needs_log_scale,
    save_figure,
    set_title,
    style_axes,
)

LETTERS = "ABC"
QUANTITY_LABELS = {"loss": "loss", "error": "error (%)"}
CONTOUR_LEVELS = 16
HIGHEST_LEVEL = 0.9  # quantile of the values on the plane
MIN_ARROW = 0.2  # height of a barrier, as a fraction of the range of its curve, above which an arrow marks it


def draw_landscape(landscape: dict[str, Any], out: Path) -> list[SavedFigure]:
    """Draws the result of `landscape` into `out`, as PDF, SVG and PNG: `line`, and of three checkpoints `plane`."""
    figures = [draw_line_figure(landscape, out)]
    if landscape["plane"]:
        figures.append(draw_plane_figure(landscape, out))
    return figures


def checkpoint_names(landscape: dict[str, Any]) -> str:
    """Returns the name of the checkpoint that each letter stands for."""
    each = [
        f"{letter}: {escape_math(c['name'])}, step {c['step']}"
        for letter, c in zip(LETTERS, landscape["checkpoints"], strict=False)
    ]
    return "\n".join(each) if sum(map(len, each)) > LEGEND_WIDTH else "   ".join(each)


def draw_line_figure(landscape: dict[str, Any], out: Path) -> SavedFigure:
    """Draws loss and error on each line, with the checkpoints and the barriers between them."""
    lines = landscape["lines"]
    figure = Figure(figsize=(10, 1.2 + 3.3 * len(lines)), layout="constrained")
    grid = figure.subplots(len(lines), 2, squeeze=False)
    for row, line in zip(grid, lines, strict=True):
        ends = LETTERS[line["from"]], LETTERS[line["to"]]
        for axis, (quantity, label) in zip(row, QUANTITY_LABELS.items(), strict=True):
            for kind in ("train", "test"):
                draw_quantity(axis, line, kind, quantity)
            t = [point["t"] for point in line["points"]]
            axis.set_xlim(t[0], t[-1])
            axis.set_xticks(np.arange(np.ceil(t[0] * 4) / 4, t[-1] + 0.01, 0.25))
            axis.set_xlabel(f"t, from {ends[0]} (0) to {ends[1]} (1)")
            axis.set_ylabel(label)
            style_axes(axis)
        row[0].set_title(f"distance {line['distance']:.3g}", fontsize=9, loc="left")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    set_title(figure, checkpoint_names(landscape))
    return save_figure(figure, "line", "Loss and error on the lines between checkpoints", out)


def draw_quantity(axis: Axes, line: dict[str, Any], kind: str, quantity: str) -> None:
    """Draws a metric of one set: its curve, the checkpoints, the straight line between them, a test barrier."""
    key, colour = f"{kind}_{quantity}", SET_COLOURS[kind]
    t, values = (np.array([p[name] for p in line["points"]], dtype=float) for name in ("t", key))
    ends = np.flatnonzero((t == 0) | (t == 1))
    if line["ends_recomputed"]:
        values[ends] = [end[key] for end in line["ends_recomputed"]]
    values[~np.isfinite(values)] = np.nan
    name = {"train": "training images", "test": "test set"}[kind]
    axis.plot(t, values, color=colour, label=name, zorder=3)
    style: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none", "zorder": 5}
    axis.plot([0, 1], values[ends], "o", markersize=7, label=f"checkpoints, {name}", **style)
    inside = (t >= 0) & (t <= 1)
    chord = (1 - t) * values[ends[0]] + t * values[ends[1]]
    axis.plot(t[inside], chord[inside], color=colour, linestyle=":", linewidth=1, zorder=2)
    highest = line["barriers"][key]
    at = int(np.flatnonzero(t == highest["t"])[0])
    if kind == "test" and np.isfinite(highest["height"]) and highest["height"] > MIN_ARROW * np.ptp(values[inside]):
        axis.annotate(
            "",
            (t[at], values[at]),
            (t[at], chord[at]),
            arrowprops={"arrowstyle": "<->", "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
        )
    finite = values[np.isfinite(values)]
    if quantity == "loss" and len(finite) and needs_log_scale(finite):
        axis.set_yscale("log")


def draw_plane_figure(landscape: dict[str, Any], out: Path) -> SavedFigure:
    """Draws training loss and test error on the plane, with the checkpoints and the lines between them."""
    plane = landscape["plane"]
    x, y = np.array(plane["x"]), np.array(plane["y"])
    ratio = (y[-1] - y[0]) / (x[-1] - x[0])
    figure = Figure(figsize=(11, 1.4 + 4.2 * min(1.6, ratio)), layout="constrained")
    panels = (("train_loss", "loss on training images"), ("test_error", "test error (%)"))
    for axis, (key, label) in zip(figure.subplots(1, 2), panels, strict=True):
        axis.set_aspect("equal")
        draw_filled_contours(axis, x, y, np.array(plane["values"][key], dtype=float))
        axis.set_title(label, fontsize=9, loc="left")
        points = np.array([[p["x"], p["y"]] for p in plane["points"]])
        axis.plot(*points.T, "-", color=TRAJECTORY_COLOUR, linewidth=1.4, zorder=3)
        axis.plot(*points.T, "o", color="white", markeredgecolor="black", markersize=13, zorder=4)
        for letter, point in zip(LETTERS, points, strict=True):
            axis.text(*point, letter, ha="center", va="center_baseline", fontsize=9, zorder=5)
        axis.set_xlabel("distance from A along A–B")
        axis.set_ylabel("distance from the line A–B")
    set_title(figure, checkpoint_names(landscape))
    return save_figure(figure, "plane", "Loss and error on the plane through three checkpoints", out)


def draw_filled_contours(axis: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """Draws filled contours with a colour bar; their levels are spaced geometrically where values range widely.

    The levels end at a high quantile of the values: far from the checkpoints these grow without bound.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    low, high = finite.min(), np.quantile(finite, HIGHEST_LEVEL)
    values = np.where(np.isfinite(values), values, finite.max())
    if high <= low:
        high = low + 1.0
    if low > 0 and needs_log_scale(np.array([low, high])):
        levels = np.geomspace(low, high, CONTOUR_LEVELS)
    else:
        levels = np.linspace(low, high, CONTOUR_LEVELS)
    norm = BoundaryNorm(levels, 256, extend="max")
    contours = axis.contourf(x, y, values, levels=levels, cmap="Blues_r", norm=norm, extend="max")
    beside = axis.inset_axes((1.03, 0, 0.05, 1))  # as high as the panel, which keeps its aspect
    axis.figure.colorbar(contours, cax=beside, ticks=levels[::3], format="%.3g")
