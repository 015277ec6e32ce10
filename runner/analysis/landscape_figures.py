"""Figures of the loss landscape: metrics on lines between checkpoints, filled contours on a plane."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.ticker import MultipleLocator

from ..reporting.figure_style import STYLE, legend_width, points
from ..reporting.style import (
    SET_COLOURS,
    TRAJECTORY_COLOUR,
    SavedFigure,
    add_legend,
    escape_math,
    legend_columns,
    legend_height,
    needs_log_scale,
    new_figure,
    save_figure,
    set_title,
    style_axes,
    title_lines,
)

LETTERS = "ABC"
QUANTITY_LABELS = {"loss": "loss", "error": "error (%)"}
SET_NAMES = {"train": "training images", "test": "test set"}
CHECKPOINTS = "checkpoints, "  # before the name of a set
CONTOUR_LEVELS = 16
HIGHEST_LEVEL = 0.9  # quantile of the values on the plane
NARROW = 5.0  # inches: the panels of a plane in a narrower figure are below one another
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
    return "\n".join(each) if sum(map(len, each)) > legend_width() else "   ".join(each)


def draw_line_figure(landscape: dict[str, Any], out: Path) -> SavedFigure:
    """Draws loss and error on each line, with the checkpoints and the barriers between them."""
    lines, title = landscape["lines"], checkpoint_names(landscape)
    labels = [f"{prefix}{name}" for name in SET_NAMES.values() for prefix in ("", CHECKPOINTS)]
    columns = min(2, legend_columns(labels))
    height = legend_height(len(title_lines(title, STYLE.get().width)), 1) + legend_height(len(labels), columns)
    figure = new_figure(1.7 * len(lines), height + 0.6 * len(lines))
    grid = figure.subplots(len(lines), 2, squeeze=False)
    for row, line in zip(grid, lines, strict=True):
        ends = LETTERS[line["from"]], LETTERS[line["to"]]
        for axis, (quantity, label) in zip(row, QUANTITY_LABELS.items(), strict=True):
            for kind in ("train", "test"):
                draw_quantity(axis, line, kind, quantity)
            t = [point["t"] for point in line["points"]]
            axis.set_xlim(t[0], t[-1])
            axis.xaxis.set_major_locator(MultipleLocator(0.5))
            axis.set_xlabel(f"t, from {ends[0]} (0) to {ends[1]} (1)")
            axis.set_ylabel(label)
            style_axes(axis)
        row[0].set_title(f"distance {line['distance']:.3g}", fontsize=points(9), loc="left")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    add_legend(figure, dict(zip(labels, handles, strict=True)), columns)
    set_title(figure, title)
    return save_figure(figure, "line", "Loss and error on the lines between checkpoints", out)


def draw_quantity(axis: Axes, line: dict[str, Any], kind: str, quantity: str) -> None:
    """Draws a metric of one set: its curve, the checkpoints, the straight line between them, a test barrier."""
    key, colour = f"{kind}_{quantity}", SET_COLOURS[kind]
    t, values = (np.array([p[name] for p in line["points"]], dtype=float) for name in ("t", key))
    ends = np.flatnonzero((t == 0) | (t == 1))
    if line["ends_recomputed"]:
        values[ends] = [end[key] for end in line["ends_recomputed"]]
    values[~np.isfinite(values)] = np.nan
    name = SET_NAMES[kind]
    axis.plot(t, values, color=colour, label=name, zorder=3)
    style: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none", "zorder": 5}
    axis.plot([0, 1], values[ends], "o", markersize=points(7), label=f"{CHECKPOINTS}{name}", **style)
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
    title, is_narrow = checkpoint_names(landscape), STYLE.get().width < NARROW
    height = (7.5 if is_narrow else 2.8) * min(1.6, ratio)
    figure = new_figure(height, 0.6 + legend_height(len(title_lines(title, STYLE.get().width)), 1))
    panels = (("train_loss", "loss on training images"), ("test_error", "test error (%)"))
    grid = figure.subplots(2, 1) if is_narrow else figure.subplots(1, 2)
    for axis, (key, label) in zip(grid, panels, strict=True):
        axis.set_aspect("equal")
        draw_filled_contours(axis, x, y, np.array(plane["values"][key], dtype=float))
        axis.set_title(label, fontsize=points(9), loc="left")
        places = np.array([[p["x"], p["y"]] for p in plane["points"]])
        axis.plot(*places.T, "-", color=TRAJECTORY_COLOUR, linewidth=points(1.4), zorder=3)
        axis.plot(*places.T, "o", color="white", markeredgecolor="black", markersize=points(13), zorder=4)
        for letter, place in zip(LETTERS, places, strict=True):
            axis.text(*place, letter, ha="center", va="center_baseline", fontsize=points(9), zorder=5)
        axis.set_xlabel("distance from A along A–B")
        axis.set_ylabel("distance from the line A–B")
    set_title(figure, title)
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
