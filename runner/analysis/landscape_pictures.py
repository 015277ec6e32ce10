"""Pictures of what lies between checkpoints: curves on lines, filled contours on a plane."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..reporting.style import (
    SET_COLOURS,
    TRAJECTORY_COLOUR,
    SavedFigure,
    escape_math,
    needs_log_scale,
    save_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = "ABC"
LABELS = {"loss": "loss", "error": "error (%)"}
LEVELS = 16
HIGH = 0.9  # quantile of a plane's values from which on all have one colour: far out they rise without bounds
SEEN = 0.2  # of the range of a curve: barriers that are lower get no arrow
LEGEND_WIDTH = 95  # letters that fit side by side


def draw_landscape(found: dict[str, Any], out: Path) -> list[SavedFigure]:
    """Draws what `landscape` returned into `out`, as SVG and PNG: `line`, and `plane` of three checkpoints."""
    pictures = [draw_lines(found, out)]
    if found["plane"]:
        pictures.append(draw_plane(found, out))
    return pictures


def names(found: dict[str, Any]) -> str:
    """Returns which letter is which checkpoint."""
    each = [
        f"{letter}: {escape_math(c['name'])}, step {c['step']}"
        for letter, c in zip(LETTERS, found["checkpoints"], strict=False)
    ]
    return "\n".join(each) if sum(map(len, each)) > LEGEND_WIDTH else "   ".join(each)


def draw_lines(found: dict[str, Any], out: Path) -> SavedFigure:
    """Draws loss and error on each line, with the checkpoints and the barriers between them."""
    from matplotlib.figure import Figure

    lines = found["lines"]
    figure = Figure(figsize=(10, 1.2 + 3.3 * len(lines)), layout="constrained")
    grid = figure.subplots(len(lines), 2, squeeze=False)
    for row, line in zip(grid, lines, strict=True):
        ends = LETTERS[line["from"]], LETTERS[line["to"]]
        for axis, (quantity, label) in zip(row, LABELS.items(), strict=True):
            for kind in ("train", "test"):
                draw_line(axis, line, kind, quantity)
            t = [point["t"] for point in line["points"]]
            axis.set_xlim(t[0], t[-1])
            axis.set_xticks(np.arange(np.ceil(t[0] * 4) / 4, t[-1] + 0.01, 0.25))
            axis.set_xlabel(f"t, from {ends[0]} (0) to {ends[1]} (1)")
            axis.set_ylabel(label)
            style_axes(axis)
        row[0].set_title(f"distance {line['distance']:.3g}", fontsize=9, loc="left")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(names(found), fontsize=10)
    return save_figure(figure, "line", "Loss and error between checkpoints", out)


def draw_line(axis: "Axes", line: dict[str, Any], kind: str, quantity: str) -> None:
    """Draws a quantity on one set of images: curve, checkpoints, the straight line between them, a test barrier."""
    key, colour = f"{kind}_{quantity}", SET_COLOURS[kind]
    t, values = (np.array([p[name] for p in line["points"]], dtype=float) for name in ("t", key))
    ends = np.flatnonzero((t == 0) | (t == 1))
    recorded = values[ends]
    if line["ends_recomputed"]:
        values[ends] = [end[key] for end in line["ends_recomputed"]]
    values[~np.isfinite(values)] = np.nan
    name = {"train": "training images", "test": "test set"}[kind]
    axis.plot(t, values, color=colour, label=name, zorder=3)
    style: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none", "zorder": 5}
    axis.plot([0, 1], recorded, "o", markersize=7, label=f"as recorded, {name}", **style)
    inside = (t >= 0) & (t <= 1)
    chord = (1 - t) * values[ends[0]] + t * values[ends[1]]
    axis.plot(t[inside], chord[inside], color=colour, linestyle=":", linewidth=1, zorder=2)
    highest = line["barriers"][key]
    at = int(np.flatnonzero(t == highest["t"])[0])
    if kind == "test" and np.isfinite(highest["height"]) and highest["height"] > SEEN * np.ptp(values[inside]):
        axis.annotate(
            "",
            (t[at], values[at]),
            (t[at], chord[at]),
            arrowprops={"arrowstyle": "<->", "color": colour, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
        )
    known = values[np.isfinite(values)]
    if quantity == "loss" and len(known) and needs_log_scale(known):
        axis.set_yscale("log")


def draw_plane(found: dict[str, Any], out: Path) -> SavedFigure:
    """Draws the training loss and the test error on the plane, with the checkpoints and the lines between them."""
    from matplotlib.figure import Figure

    plane = found["plane"]
    x, y = np.array(plane["x"]), np.array(plane["y"])
    share = (y[-1] - y[0]) / (x[-1] - x[0])
    figure = Figure(figsize=(11, 1.4 + 4.2 * min(1.6, share)), layout="constrained")
    panels = (("train_loss", "loss on training images"), ("test_error", "test error (%)"))
    for axis, (key, label) in zip(figure.subplots(1, 2), panels, strict=True):
        axis.set_aspect("equal")
        shade(axis, x, y, np.array(plane["values"][key], dtype=float))
        axis.set_title(label, fontsize=9, loc="left")
        points = np.array([[p["x"], p["y"]] for p in plane["points"]])
        axis.plot(*points.T, "-", color=TRAJECTORY_COLOUR, linewidth=1.4, zorder=3)
        axis.plot(*points.T, "o", color="white", markeredgecolor="black", markersize=13, zorder=4)
        for letter, point in zip(LETTERS, points, strict=True):
            axis.text(*point, letter, ha="center", va="center_baseline", fontsize=9, zorder=5)
        axis.set_xlabel("distance from A along A–B")
        axis.set_ylabel("distance from the line A–B")
    figure.suptitle(names(found), fontsize=10)
    return save_figure(figure, "plane", "Loss and error on the plane through three checkpoints", out)


def shade(axis: "Axes", x: np.ndarray, y: np.ndarray, values: np.ndarray) -> None:
    """Draws filled contours; where values range widely, their levels are spaced geometrically.

    Levels end at a high quantile of the values: far away from the checkpoints these rise without bounds.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return
    low, high = finite.min(), np.quantile(finite, HIGH)
    values = np.where(np.isfinite(values), values, finite.max())
    if high <= low:
        high = low + 1.0
    if low > 0 and needs_log_scale(np.array([low, high])):
        levels = np.geomspace(low, high, LEVELS)
    else:
        levels = np.linspace(low, high, LEVELS)
    from matplotlib.colors import BoundaryNorm

    contours = axis.contourf(
        x, y, values, levels=levels, cmap="Blues_r", norm=BoundaryNorm(levels, 256, extend="max"), extend="max"
    )
    beside = axis.inset_axes((1.03, 0, 0.05, 1))  # as high as the picture, which keeps its proportions
    axis.figure.colorbar(contours, cax=beside, ticks=levels[::3], format="%.3g")
