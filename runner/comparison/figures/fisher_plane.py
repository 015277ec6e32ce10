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

from ...reporting.figure_style import legend_width, points
from ...reporting.method_styles import name_parts
from ...reporting.style import (
    SavedFigure,
    add_legend,
    legend_height,
    new_figure,
    save_figure,
    set_note,
    style_axes,
    ticks_shown,
)
from ..differences import configs_as_text
from ..methods import Comparison, Method, has_single_runs
from ..records.thin_records import EPOCH_FRACTIONS
from .point_labels import PointLabels, write_labels
from .point_styles import RATE, PointStyle, point_legend, point_styles, rest_of_label

ERROR_LEVELS = 7
MIN_CONTOUR_POINTS = 6
TICKS = ((1.0, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))  # in each decade; the first that fits
TICK_LETTERS = 8  # that a tick's label takes of the width of a figure
SIZE = "batching.size"
CONSTANT = "constant batch size s"
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
    styles = plane_styles(comparison, trajectories)
    handles, columns = point_legend(styles.values())
    draw = {
        "fisher_plane": ("End points of runs in the plane of condition and energy", draw_end_points),
        "fisher_ways": ("Trajectories of runs in the plane of condition and energy", draw_trajectories),
    }
    figures = []
    for name, (title, draw_points) in draw.items():
        figure = new_figure(4.6, 0.4 + legend_height(len(handles), columns))
        axis = figure.subplots()
        has_contours = draw_error_contours(axis, trajectories.values())
        note, texts = draw_points(axis, comparison, trajectories, styles)
        set_note(axis, f"{note}\ngrey: contours of the test error (%)" if has_contours else note)
        add_legend(figure, handles, columns)
        set_scales(axis)
        write_labels(figure, axis, texts)
        figures.append(save_figure(figure, name, title, out))
    return figures


def plane_styles(comparison: Comparison, trajectories: dict[str, PlaneTrajectory]) -> dict[str, PointStyle]:
    """Returns the style of each method that is drawn: markers stand for plans of batch sizes.

    All constant batch sizes are one plan, as the sizes stand beside the points.
    """
    plans = {}
    for method in comparison.methods:
        if method.name in trajectories:
            is_constant = trajectories[method.name].size is not None
            keys = (RATE, SIZE, "batching") if is_constant else (RATE,)
            parts = {key: value for key, value in name_parts(method.name).items() if key in keys}
            plan = rest_of_label(method, parts)
            plans[method.name] = plan or (CONSTANT if is_constant else "batch size that changes")
    return point_styles(plans)


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
    style: dict[str, Any] = {"colors": "0.6", "linewidths": 0.8, "zorder": 1.4}  # behind the points
    lines = axis.tricontour(Triangulation(ends[:, 0], ends[:, 1], triangles), errors, levels=ERROR_LEVELS, **style)
    for label in axis.clabel(lines, fmt="%.3g", fontsize=points(7), inline=False):  # which would cut short lines away
        label.set(bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, zorder=1.5)
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
        locators = [LogLocator(subs=ticks, numticks=30) for ticks in TICKS]
        fits = (locator for locator in locators if ticks_shown(side, locator) <= legend_width() // TICK_LETTERS)
        side.set_major_locator(next(fits, locators[-1]))
        side.set_major_formatter("{x:g}")
        side.set_minor_locator(NullLocator())
        side.set_label_text(label)
    style_axes(axis)


def draw_end_points(
    axis: Axes, comparison: Comparison, trajectories: dict[str, PlaneTrajectory], styles: dict[str, PointStyle]
) -> tuple[str, PointLabels]:
    """Draws a point for each method, joined where methods differ only in their batch size.

    Returns:
        A note, and the texts that belong beside points: batch sizes, and errors where there are too few for contours.
    """
    texts = []
    for names in batch_size_families(comparison, trajectories):
        axis.plot(*np.array([trajectories[name].end for name in names]).T, color="0.85", linewidth=points(3), zorder=1)
    for name, trajectory in trajectories.items():
        look: dict[str, Any] = {"color": styles[name].colour, "markeredgecolor": "black", "linestyle": "none"}
        axis.plot(*trajectory.end, marker=styles[name].marker, markersize=points(8), zorder=4, **look)
        has_error = len(trajectories) < MIN_CONTOUR_POINTS and np.isfinite(trajectory.error)
        parts = [f"s{trajectory.size}"] if trajectory.size is not None else []
        parts += [f"{trajectory.error:.2f} %"] if has_error else []
        texts.append((", ".join(parts), trajectory.end))
    errors = "; %: test error" if len(trajectories) < MIN_CONTOUR_POINTS else ""
    what = "the run" if has_single_runs(comparison.methods) else "mean over seeds"
    return f"point: {what} at the end; s: batch size; joined: only s differs{errors}", texts


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


def draw_trajectories(
    axis: Axes, comparison: Comparison, trajectories: dict[str, PlaneTrajectory], styles: dict[str, PointStyle]
) -> tuple[str, PointLabels]:
    """Draws dotted trajectories of runs with a constant batch size, and solid ones of others.

    Returns:
        A note, and the texts that belong beside the points where trajectories begin.
    """
    del comparison
    texts = []
    for name, trajectory in trajectories.items():
        path = trajectory.points[~np.isnan(trajectory.points).any(axis=1)]
        look: dict[str, Any] = {"linestyle": "-", "linewidth": points(2.2), "markersize": points(6)}
        if trajectory.size is not None:
            look = {"linestyle": ":", "linewidth": points(1.6), "markersize": points(4)}
            texts.append((f"s{trajectory.size}", path[0]))
        axis.plot(*path.T, marker=styles[name].marker, color=styles[name].colour, **look)
    percent = ", ".join(f"{100 * fraction:g}" for fraction in EPOCH_FRACTIONS)
    return f"points: {percent} % of the epochs; dotted: constant batch size s", texts
