"""The plane of C_K and L_K: where runs end, and the ways that they go (Liao 2018, figures 1, 3 and 5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..reporting.style import LEGEND_WIDTH, PALETTE, SavedFigure, add_legend, new_figure, save_figure, style_axes
from .methods import Comparison, Method, as_text
from .pictures import colour_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHARES = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a run's epochs, at which the points of its way lie
MARKERS = ("o", "s", "^", "D")  # the next one for every eight methods
LEVELS = 7
ENOUGH = 6  # points that level lines need
TICKS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)  # in each decade
SIZE = "batching.size"
LABELS = (r"$\bar{C}_K$, mean condition of the gradients", r"$L_K$, sum of their energy")


@dataclass(frozen=True)
class Way:
    """The mean way of a method's runs through the plane.

    Attributes:
        points: (C_K, L_K) at SHARES of the epochs, (6, 2); nan where the first row comes later.
        end: (C_K, L_K) of the last rows, (2,).
        error: final test error in percent; nan where there is none.
        size: the batch size, where it was one from start to end; otherwise None.
    """

    points: np.ndarray
    end: np.ndarray
    error: float
    size: int | None


def draw_plane(comparison: Comparison, out: Path) -> list[SavedFigure]:
    """Draws where the methods end, and how they came there, into `out`; nothing where no rows say so.

    Runs that diverged are left out: they end nowhere.
    """
    ways = ways_of(comparison)
    if not ways:
        return []
    draw = {
        "fisher_plane": ("Where runs end in the plane of condition and energy", draw_ends),
        "fisher_ways": ("The ways of runs through the plane of condition and energy", draw_ways),
    }
    pictures = []
    for name, (title, draw_points) in draw.items():
        figure = new_figure(5.0 + 0.2 * sum(-(-len(name) // LEGEND_WIDTH) for name in ways))
        axis = figure.subplots()
        note = "; grey lines: test error (%)" if draw_levels(axis, ways.values()) else ""
        add_legend(figure, draw_points(axis, comparison, ways))
        set_scales(axis)
        axis.set_title(axis.get_title(loc="left") + note, fontsize=9, loc="left")
        pictures.append(save_figure(figure, name, title, out))
    return pictures


def ways_of(comparison: Comparison) -> dict[str, Way]:
    """Returns a way for each method of which a run that did not diverge has the measures."""
    metrics = comparison.runs.metrics
    if not {"C_K", "L_K"} <= set(metrics):
        return {}
    ended = comparison.runs.summaries["status"] != "diverged"
    by_run = {str(run): rows for run, rows in metrics.groupby("run", sort=False) if ended.get(run, False)}
    found = {}
    for method in comparison.methods:
        parts = [by_run[run] for run in method.runs if run in by_run]
        parts = [part for part in parts if part[["C_K", "L_K"]].notna().all(axis=1).any()]
        if parts:
            found[method.name] = way(parts, comparison.runs.summaries.loc[method.runs, "final.top1"])
    return found


def way(parts: list[pd.DataFrame], top1: pd.Series) -> Way:
    """Returns the mean way of runs, from their rows and their final accuracies in percent."""
    points, ends = [], []
    for part in parts:
        rows = part[part[["C_K", "L_K"]].notna().all(axis=1)]
        epochs = rows["epoch"].to_numpy(float)
        places = np.array(SHARES) * part["epoch"].max()
        both = [rows[name].to_numpy(float) for name in ("C_K", "L_K")]
        points.append(np.stack([np.interp(places, epochs, values, left=np.nan) for values in both], 1))
        ends.append([values[-1] for values in both])
    sizes = {constant_size(part) for part in parts}
    size = sizes.pop() if len(sizes) == 1 else None
    return Way(np.mean(points, axis=0), np.mean(ends, axis=0), 100 - float(top1.mean()), size)


def constant_size(rows: pd.DataFrame) -> int | None:
    """Returns the batch size of a run, or None where it changes from epoch to epoch.

    The last batch of an epoch holds what is left, and says nothing of that.

    >>> rows = pd.DataFrame({"epoch": [0.4, 0.8, 1.0, 1.4], "batch_size": [32, 32, 16, 32]})
    >>> constant_size(rows), constant_size(rows.assign(batch_size=[32, 32, 16, 64]))
    (32, None)
    """
    rows = rows[rows["batch_size"].notna()]
    inside = rows[rows["epoch"] % 1 != 0]
    rows = inside if len(inside) else rows
    sizes = rows.groupby(np.ceil(rows["epoch"]))["batch_size"].max().unique()
    return int(sizes[0]) if len(sizes) == 1 else None


def draw_levels(axis: "Axes", ways: Iterable[Way]) -> bool:
    """Draws lines of equal error between the methods' ends; returns whether there were enough points."""
    from matplotlib.tri import Triangulation

    known = [way for way in ways if np.isfinite(way.error) and (way.end > 0).all()]
    ends = np.array([way.end for way in known]).reshape(-1, 2)
    errors = np.array([way.error for way in known])
    places = np.log(ends)
    if len(known) < ENOUGH or np.ptp(errors) == 0 or not is_plane(places):
        return False
    mesh = Triangulation(
        ends[:, 0], ends[:, 1], Triangulation(places[:, 0], places[:, 1]).triangles
    )  # of the axes as they are drawn
    lines = axis.tricontour(mesh, errors, levels=LEVELS, colors="0.6", linewidths=0.8)
    axis.clabel(lines, fmt="%.3g", fontsize=7)
    return True


def is_plane(places: np.ndarray) -> bool:
    """Returns whether points (n, 2) span more than a line."""
    widths = np.linalg.svd(places - places.mean(axis=0), compute_uv=False)
    return bool(widths[-1] > 1e-3 * widths[0])


def set_scales(axis: "Axes") -> None:
    """Makes both axes logarithmic, with plain numbers and room around what was drawn."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log")
    axis.set_yscale("log")
    for side, label in zip((axis.xaxis, axis.yaxis), LABELS, strict=True):
        side.set_major_locator(LogLocator(subs=TICKS, numticks=30))
        side.set_major_formatter("{x:g}")
        side.set_minor_locator(NullLocator())
        side.set_label_text(label)
    axis.use_sticky_edges = False  # level lines would end the axes at the outermost points
    axis.margins(0.1)
    axis.autoscale()
    style_axes(axis)


def draw_ends(axis: "Axes", comparison: Comparison, ways: dict[str, Way]) -> dict[str, Any]:
    """Draws a point a method, joined where they differ by their batch size alone; returns what was drawn by name."""
    drawn: dict[str, Any] = {}
    for names in families(comparison, ways):
        axis.plot(*np.array([ways[name].end for name in names]).T, color="0.9", linewidth=3, zorder=1)
    for number, (name, way) in enumerate(ways.items()):
        marker = MARKERS[number // len(PALETTE) % len(MARKERS)]
        colour, _ = colour_of(comparison.methods)[name]
        label = name if np.isnan(way.error) else f"{name}: {way.error:.2f} %"
        style: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none"}
        (drawn[label],) = axis.plot(*way.end, marker=marker, markersize=8, zorder=4, **style)
        if way.size is not None:
            write_size(axis, way, way.end, (6, 5))
    axis.set_title("point: mean over seeds at the end; s: batch size; joined: the same but for it", loc="left")
    return drawn


def write_size(axis: "Axes", way: Way, place: np.ndarray, shift: tuple[int, int]) -> None:
    """Writes a batch size beside a place, shifted by so many points."""
    side = "left" if shift[0] > 0 else "right"
    x, y = place
    axis.annotate(f"s{way.size}", (x, y), shift, textcoords="offset points", fontsize=8, ha=side, zorder=5)


def families(comparison: Comparison, ways: dict[str, Way]) -> list[list[str]]:
    """Returns the names of methods that differ by their batch size alone, by size, where there are several."""
    if SIZE not in comparison.differing:
        return []
    text = as_text(comparison.runs.configs)
    others = [key for key in comparison.differing if key != SIZE]
    found: dict[tuple[str, ...], list[Method]] = {}
    for method in comparison.methods:
        if method.name in ways and ways[method.name].size is not None:
            found.setdefault(tuple(text.loc[method.runs[0], others]), []).append(method)
    families = [sorted(methods, key=lambda m: ways[m.name].size or 0) for methods in found.values()]
    return [[m.name for m in methods] for methods in families if len(methods) > 1]


def draw_ways(axis: "Axes", comparison: Comparison, ways: dict[str, Way]) -> dict[str, Any]:
    """Draws dotted ways of runs with one batch size, and solid ones of others; returns what was drawn by name."""
    drawn: dict[str, Any] = {}
    for number, (name, way) in enumerate(ways.items()):
        points = way.points[~np.isnan(way.points).any(axis=1)]
        style: dict[str, Any] = {"linestyle": "-", "linewidth": 2.2, "markersize": 6}
        if way.size is not None:
            style = {"linestyle": ":", "linewidth": 1.6, "markersize": 4}
            write_size(axis, way, points[0], (-6, -3))
        style |= {"marker": MARKERS[number // len(PALETTE) % len(MARKERS)]}
        (drawn[name],) = axis.plot(*points.T, color=colour_of(comparison.methods)[name][0], **style)
    shares = ", ".join(f"{100 * share:g}" for share in SHARES)
    axis.set_title(f"points: {shares} % of the epochs; dotted: one batch size, s", loc="left")
    return drawn
