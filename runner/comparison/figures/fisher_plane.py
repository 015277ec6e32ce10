"""The plane of C_K and L_K: where runs end, and their trajectories (Liao 2018, figures 1, 3 and 5)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator
from matplotlib.tri import Triangulation

from ...reporting.style import LEGEND_WIDTH, PALETTE, SavedFigure, add_legend, new_figure, save_figure, style_axes
from ..differences import configs_as_text
from ..methods import Comparison, Method
from .curves import method_styles

EPOCH_FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a run's epochs, for the points of its trajectory
METHOD_MARKERS = ("o", "s", "^", "D")  # the next one for every eight methods
ERROR_LEVELS = 7
MIN_CONTOUR_POINTS = 6
TICKS = (1.0, 2.0, 3.0, 4.0, 5.0, 7.0)  # in each decade
FEW_TICKS = (1.0, 2.0, 5.0)  # the same on a wide range, where more would run into one another
WIDE_RANGE = 30  # ratio of the largest to the smallest value
SIZE = "batching.size"
PLANE_LABELS = (r"$\bar{C}_K$, mean condition of the gradients", r"$L_K$, sum of their energy")


@dataclass(frozen=True)
class PlaneTrajectory:
    """The mean trajectory of a method's runs in the plane.

    Attributes:
        points: (C_K, L_K) at EPOCH_FRACTIONS, (6, 2); nan before the first record.
        end: (C_K, L_K) of the last records, (2,).
        error: final test error in percent; nan where there is none.
        size: the batch size, where it is constant; None otherwise.
    """

    points: np.ndarray
    end: np.ndarray
    error: float
    size: int | None


def draw_fisher_plane(comparison: Comparison, out: Path) -> list[SavedFigure]:
    """Draws the end points of the methods and their trajectories into `out`; nothing where no run has the measures.

    Runs that diverged are left out: they have no end point.
    """
    trajectories = method_trajectories(comparison)
    if not trajectories:
        return []
    draw = {
        "fisher_plane": ("End points of runs in the plane of condition and energy", draw_end_points),
        "fisher_ways": ("Trajectories of runs in the plane of condition and energy", draw_trajectories),
    }
    figures = []
    for name, (title, draw_points) in draw.items():
        figure = new_figure(5.0 + 0.2 * sum(-(-len(method) // LEGEND_WIDTH) for method in trajectories))
        axis = figure.subplots()
        note = "\ngrey: contours of the test error (%)" if draw_error_contours(axis, trajectories.values()) else ""
        add_legend(figure, draw_points(axis, comparison, trajectories))
        set_scales(axis)
        axis.set_title(axis.get_title(loc="left") + note, fontsize=9, loc="left")
        figures.append(save_figure(figure, name, title, out))
    return figures


def method_trajectories(comparison: Comparison) -> dict[str, PlaneTrajectory]:
    """Returns the trajectory of each method with a run that has the measures and did not diverge."""
    metrics = comparison.runs.metrics
    if not {"C_K", "L_K"} <= set(metrics):
        return {}
    converged = comparison.runs.summaries["status"] != "diverged"
    by_run = {str(run): rows for run, rows in metrics.groupby("run", sort=False) if converged.get(run, False)}
    trajectories = {}
    for method in comparison.methods:
        parts = [by_run[run] for run in method.runs if run in by_run]
        parts = [part for part in parts if part[["C_K", "L_K"]].notna().all(axis=1).any()]
        if parts:
            top1 = comparison.runs.summaries.loc[method.runs, "final.top1"]
            trajectories[method.name] = mean_trajectory(parts, top1)
    return trajectories


def mean_trajectory(parts: list[pd.DataFrame], top1: pd.Series) -> PlaneTrajectory:
    """Returns the mean trajectory of runs, from their records and their final accuracies in percent."""
    points, ends = [], []
    for part in parts:
        rows = part[part[["C_K", "L_K"]].notna().all(axis=1)]
        epochs = rows["epoch"].to_numpy(float)
        at = np.array(EPOCH_FRACTIONS) * part["epoch"].max()
        both = [rows[name].to_numpy(float) for name in ("C_K", "L_K")]
        points.append(np.stack([np.interp(at, epochs, values, left=np.nan) for values in both], 1))
        ends.append([values[-1] for values in both])
    sizes = {constant_size(part) for part in parts}
    size = sizes.pop() if len(sizes) == 1 else None
    return PlaneTrajectory(np.mean(points, axis=0), np.mean(ends, axis=0), 100 - float(top1.mean()), size)


def constant_size(rows: pd.DataFrame) -> int | None:
    """Returns the batch size of a run, or None where it changes from epoch to epoch.

    The last batch of an epoch may be smaller, and is ignored.

    >>> rows = pd.DataFrame({"epoch": [0.4, 0.8, 1.0, 1.4], "batch_size": [32, 32, 16, 32]})
    >>> constant_size(rows), constant_size(rows.assign(batch_size=[32, 32, 16, 64]))
    (32, None)
    """
    rows = rows[rows["batch_size"].notna()]
    inside = rows[rows["epoch"] % 1 != 0]
    rows = inside if len(inside) else rows
    sizes = rows.groupby(np.ceil(rows["epoch"]))["batch_size"].max().unique()
    return int(sizes[0]) if len(sizes) == 1 else None


def draw_error_contours(axis: Axes, trajectories: Iterable[PlaneTrajectory]) -> bool:
    """Draws contours of the error between the methods' end points; returns whether there were enough of these."""
    known = [one for one in trajectories if np.isfinite(one.error) and (one.end > 0).all()]
    ends = np.array([one.end for one in known]).reshape(-1, 2)
    errors = np.array([one.error for one in known])
    logarithms = np.log(ends)
    if len(known) < MIN_CONTOUR_POINTS or np.ptp(errors) == 0 or not is_plane(logarithms):
        return False
    triangles = Triangulation(logarithms[:, 0], logarithms[:, 1]).triangles  # as on the logarithmic axes
    lines = axis.tricontour(
        Triangulation(ends[:, 0], ends[:, 1], triangles), errors, levels=ERROR_LEVELS, colors="0.6", linewidths=0.8
    )
    axis.clabel(lines, fmt="%.3g", fontsize=7)
    return True


def is_plane(points: np.ndarray) -> bool:
    """Returns whether points (n, 2) span more than a line."""
    widths = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(widths[-1] > 1e-3 * widths[0])


def set_scales(axis: Axes) -> None:
    """Makes both axes logarithmic, with plain numbers and a margin around the points."""
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.use_sticky_edges = False  # contours would end the axes at the outermost points
    axis.margins(0.1)
    axis.autoscale()
    for side, label in zip((axis.xaxis, axis.yaxis), PLANE_LABELS, strict=True):
        low, high = side.get_view_interval()
        ticks = TICKS if high < WIDE_RANGE * low else FEW_TICKS
        side.set_major_locator(LogLocator(subs=ticks, numticks=30))
        side.set_major_formatter("{x:g}")
        side.set_minor_locator(NullLocator())
        side.set_label_text(label)
    style_axes(axis)


def draw_end_points(axis: Axes, comparison: Comparison, trajectories: dict[str, PlaneTrajectory]) -> dict[str, Any]:
    """Draws a point for each method, joined where methods differ only in their batch size; returns labelled handles."""
    handles: dict[str, Any] = {}
    for names in batch_size_families(comparison, trajectories):
        axis.plot(*np.array([trajectories[name].end for name in names]).T, color="0.9", linewidth=3, zorder=1)
    for number, (name, trajectory) in enumerate(trajectories.items()):
        marker = METHOD_MARKERS[number // len(PALETTE) % len(METHOD_MARKERS)]
        colour, _ = method_styles(comparison.methods)[name]
        label = name if np.isnan(trajectory.error) else f"{name}: error {trajectory.error:.2f} %"
        style: dict[str, Any] = {"color": colour, "markeredgecolor": "black", "linestyle": "none"}
        (handles[label],) = axis.plot(*trajectory.end, marker=marker, markersize=8, zorder=4, **style)
        if trajectory.size is not None:
            write_size(axis, trajectory.size, trajectory.end, (6, 5))
    axis.set_title("point: mean over seeds at the end; s: batch size; joined: only s differs", loc="left")
    return handles


def write_size(axis: Axes, size: int, point: np.ndarray, offset: tuple[int, int]) -> None:
    """Writes a batch size beside a point, with an offset in points of type."""
    side = "left" if offset[0] > 0 else "right"
    x, y = point
    axis.annotate(f"s{size}", (x, y), offset, textcoords="offset points", fontsize=8, ha=side, zorder=5)


def batch_size_families(comparison: Comparison, trajectories: dict[str, PlaneTrajectory]) -> list[list[str]]:
    """Returns the names of methods that differ only in their batch size, by size; of each such group of several."""
    if SIZE not in comparison.differing:
        return []
    text = configs_as_text(comparison.runs.configs)
    others = [key for key in comparison.differing if key != SIZE]
    groups: dict[tuple[str, ...], list[Method]] = {}
    for method in comparison.methods:
        if method.name in trajectories and trajectories[method.name].size is not None:
            groups.setdefault(tuple(text.loc[method.runs[0], others]), []).append(method)
    families = [sorted(methods, key=lambda m: trajectories[m.name].size or 0) for methods in groups.values()]
    return [[m.name for m in methods] for methods in families if len(methods) > 1]


def draw_trajectories(axis: Axes, comparison: Comparison, trajectories: dict[str, PlaneTrajectory]) -> dict[str, Any]:
    """Draws dotted trajectories of runs with a constant batch size, and solid ones of others; returns the handles."""
    handles: dict[str, Any] = {}
    for number, (name, trajectory) in enumerate(trajectories.items()):
        points = trajectory.points[~np.isnan(trajectory.points).any(axis=1)]
        style: dict[str, Any] = {"linestyle": "-", "linewidth": 2.2, "markersize": 6}
        if trajectory.size is not None:
            style = {"linestyle": ":", "linewidth": 1.6, "markersize": 4}
            write_size(axis, trajectory.size, points[0], (-6, -3))
        style |= {"marker": METHOD_MARKERS[number // len(PALETTE) % len(METHOD_MARKERS)]}
        (handles[name],) = axis.plot(*points.T, color=method_styles(comparison.methods)[name][0], **style)
    percent = ", ".join(f"{100 * fraction:g}" for fraction in EPOCH_FRACTIONS)
    axis.set_title(f"points: {percent} % of the epochs; dotted: constant batch size s", loc="left")
    return handles
