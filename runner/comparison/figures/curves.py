"""Curves of a comparison: one for each method, with the range over its seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ...reporting.figure_style import points
from ...reporting.loss_terms import term_names, terms_drawn
from ...reporting.method_styles import method_styles
from ...reporting.style import (
    MARKER_LIMIT,
    OFF_AXIS,
    SMOOTHED_FROM,
    SavedFigure,
    add_legend,
    fit_percentages,
    legend_columns,
    legend_height,
    needs_log_scale,
    new_figure,
    running_mean,
    save_figure,
    set_note,
    style_axes,
)
from ..methods import Comparison, Method, has_single_runs, selected_metric
from ..metrics import AXES
from ..records.thin_records import CURVE_POINT, even_indices
from .target import UNITS, draw_target_costs

SINGLE = "one run of each method"
BAND = "line: mean over seeds; band: minimum to maximum over seeds"
MEAN_TIME = ", mean over the seeds at each step"
SAME = 1e-3  # relative difference, below which curves cover each other
EDGE = 0.03  # of the x-axis, beside the curves
DASH = 6.0  # length in points of the dashes of such curves


@dataclass(frozen=True)
class Curve:
    """A quantity over the runs of a method: arrays of one length, without nan."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_comparison_figures(comparison: Comparison, x_axis: str, out: Path) -> list[SavedFigure]:
    """Draws the curves of all methods into `out`, as PDF, SVG and PNG.

    Args:
        comparison: the methods and their runs.
        x_axis: one of AXES.
        out: a folder; it is made where it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    return [save_figure(figure, name, title, out) for name, title, figure in comparison_figures(comparison, x_axis)]


def comparison_figures(comparison: Comparison, x_axis: str) -> Iterator[tuple[str, str, Figure]]:
    """Yields (name, title, figure) of the figures of a comparison; those without data are left out."""
    comparison, terms = with_loss_terms(comparison)

    def curves(kind: str, column: str) -> dict[str, Curve]:
        return method_curves(comparison, kind, column, AXES[x_axis])

    top1, loss = curves("test", "top1"), loss_label(comparison)
    metrics = comparison.runs.metrics
    is_smoothed = metrics.loc[metrics["kind"] == "train", "run"].value_counts().max() >= SMOOTHED_FROM
    batches = "batches, running mean" if is_smoothed else "single batches"
    lines = {
        "test_top1": ("Test accuracy", {"test top-1 accuracy (%)": top1}),
        "end": ("Last quarter of each curve: test accuracy", {"test top-1 accuracy (%)": last_quarter(top1)}),
        "test_loss": (loss.capitalize(), {loss: curves("test", "loss")}),
        **{
            f"{kind}_{name}": (f"{kind.capitalize()} {label}", {f"{kind} {label}": curves(kind, name)})
            for kind, name, label in recorded_metrics(comparison)
        },
        "train_top1": ("Training accuracy", {f"top-1 on {batches}, %": curves("train", "top1")}),
        "train_loss": ("Training loss", {f"total loss on {batches}": curves("train", "total")}),
        "lr": (
            "Learning rate",
            {"learning rate": curves("train", "lr"), "step size": curves("train", "step_size")},
        ),
        "loss_terms": ("Terms of the training loss", {t: curves("train", t) for t in terms}),
    }
    for name, (title, quantities) in lines.items():
        panels = {quantity: curves for quantity, curves in quantities.items() if curves}
        if panels and not (name == "lr" and are_constant(panels)):
            figure = draw_curve_panels(panels, comparison.methods, x_axis, from_start=name != "end")
            yield name, f"{title} vs. {x_axis}", figure
    if comparison.target is not None and any(method.to_target[x_axis].n for method in comparison.methods):
        accuracy = " top-1 accuracy" if comparison.target.more_is_better else ""
        title = f"{x_axis.capitalize()} to {comparison.target}{accuracy}"
        yield "time_to_target", title, draw_target_costs(comparison, x_axis)


def are_constant(panels: dict[str, dict[str, Curve]]) -> bool:
    """Returns whether each curve has one value, and all runs of its method have it."""
    return all(c.low.min() == c.high.max() for curves in panels.values() for c in curves.values())


def loss_label(comparison: Comparison) -> str:
    """Returns what the loss of evaluations is: of test functions their value, which no set of samples has."""
    data = comparison.runs.configs.get("choices.data")
    return "test loss" if data is None or set(data) != {"none"} else "value of the function"


def recorded_metrics(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Returns (kind of row, name, label) of metrics of the set `test`, and of the selected one of further test sets.

    Loss and top-k accuracy of `test`, which all runs have, are not among them.
    """
    triples = []
    selected = selected_metric(comparison.runs.summaries) or "top1"
    for metric in comparison.metrics.values():
        first, _, name = metric.column.partition(".")
        kind, _, name = name.rpartition(".")
        if first == "final" and (name == selected if kind else name not in ("loss", "top1", "top5")):
            label = metric.label.removeprefix("final ").removeprefix(f"{kind} ")
            triples.append((kind or "test", name, label))
    return triples


def with_loss_terms(comparison: Comparison) -> tuple[Comparison, list[str]]:
    """Returns the comparison with a column for each term of the training loss that is drawn, and their labels."""
    metrics, configs = comparison.runs.metrics, comparison.runs.configs
    regularizers = list(dict.fromkeys(k.split(".")[1] for k in configs if k.startswith("regularizer.")))
    names = [name for name in term_names(regularizers) if name in metrics]
    columns = {name: pd.to_numeric(metrics[name], errors="coerce").to_numpy(float) for name in names}
    terms = terms_drawn(columns, regularizers)
    return replace(comparison, runs=replace(comparison.runs, metrics=metrics.assign(**terms))), list(terms)


def method_curves(comparison: Comparison, kind: str, column: str, axis: str) -> dict[str, Curve]:
    """Returns a curve for each method that has such records.

    Args:
        comparison: the methods and their runs.
        kind: of the records of metrics.jsonl; those of training are smoothed, except for the learning rate.
        column: the quantity.
        axis: the column of the x-axis, one of the values of AXES.
    """
    metrics = comparison.runs.metrics
    if column not in metrics:
        return {}
    rows = metrics[metrics["kind"] == kind]
    has_marks = CURVE_POINT in rows
    rows = rows[rows[CURVE_POINT].ne(False)] if has_marks else rows
    frame = pd.DataFrame({"run": rows["run"], "step": rows["step"], "x": rows[axis]})
    frame["value"] = pd.to_numeric(rows[column], errors="coerce")
    frame["is_smooth"] = (rows[CURVE_POINT].eq(True) if has_marks else False) | (kind != "train" or column == "lr")
    frame = frame.dropna().drop_duplicates(["run", "step"], keep="last")
    by_run = {str(run): part for run, part in frame.groupby("run", sort=False)}
    curves = {}
    for method in comparison.methods:
        parts = [by_run[run] for run in method.runs if run in by_run]
        parts = [p if p["is_smooth"].all() else p.assign(value=running_mean(p["value"].to_numpy())) for p in parts]
        if parts:
            curves[method.name] = mean_curve(parts)
    return curves


def mean_curve(parts: list[pd.DataFrame]) -> Curve:
    """Returns the mean and the range over runs, aligned by step; between its own steps a run is interpolated.

    A run that ended early counts up to its end.

    Args:
        parts: for each run, columns `step` (increasing), `x` and `value`.
    """
    steps = np.unique(np.concatenate([part["step"] for part in parts]))
    steps = steps[even_indices(len(steps))]

    def aligned(column: str) -> np.ndarray:
        rows = [np.interp(steps, p["step"], p[column], left=np.nan, right=np.nan) for p in parts]
        return np.array(rows, dtype=float)

    values, x = aligned("value"), aligned("x")
    covered = ~np.isnan(values).all(axis=0)
    values, x = values[:, covered], x[:, covered]
    # the cumulative sum of mean lengths of steps: a mean of x would jump back where a slow run ends
    lengths = np.diff(x, axis=1)
    known = ~np.isnan(lengths)
    mean_lengths = np.where(known, lengths, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    mean_x = np.nanmean(x[:, 0]) + np.concatenate([[0.0], np.cumsum(mean_lengths)])
    return Curve(mean_x, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))


def last_quarter(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Returns the last quarter of each curve's own length; empty where none has two points there.

    A last quarter of the common axis would show only the slowest method, where the axis is time.
    """
    ends = {}
    for name, c in curves.items():
        last = c.x >= 0.75 * c.x[-1]
        ends[name] = Curve(c.x[last], c.mean[last], c.low[last], c.high[last])
    return ends if any(len(c.x) > 1 for c in ends.values()) else {}


def cover(one: Curve, other: Curve) -> bool:
    """Returns whether two curves have the same values wherever both have any."""
    low, high = max(one.x[0], other.x[0]), min(one.x[-1], other.x[-1])
    x = np.unique(np.concatenate([one.x, other.x]))
    x = x[(x >= low) & (x <= high)]
    ours, theirs = (np.interp(x, curve.x, curve.mean) for curve in (one, other))
    return len(x) > 1 and bool(np.allclose(ours, theirs, rtol=SAME, atol=0.0))


def turn(number: int, count: int) -> tuple[float, tuple[float, float]]:
    """Returns the line style of one of several curves that cover each other: its dashes fill gaps of the others.

    >>> turn(0, 2), turn(1, 2)
    ((0.0, (6.0, 6.0)), (6.0, (6.0, 6.0)))
    """
    return number * DASH, (DASH, (count - 1) * DASH)


def draw_curve_panels(
    panels: dict[str, dict[str, Curve]], methods: list[Method], x_axis: str, across: int = 1, from_start: bool = True
) -> Figure:
    """Draws curves, a panel for each quantity, with one legend below all of them.

    Curves that cover each other have dashes that take turns, so that all are seen.

    Args:
        panels: for the label of each quantity, curves by the names of their methods.
        methods: all of them, so that each has the same colour in all figures.
        x_axis: one of AXES.
        across: panels side by side.
        from_start: whether the x-axis begins with the run, as that of curves of evaluations does.
    """
    labels = {m.name: m.label for m in methods if any(m.name in curves for curves in panels.values())}
    columns, down = legend_columns(labels.values()), -(-len(panels) // across)
    figure = new_figure(3.6 * down / across**0.5, 0.6 + legend_height(len(labels), columns))
    handles: dict[str, Any] = {}
    is_single = has_single_runs(methods)
    note = shown_band = SINGLE if is_single else BAND
    grid = figure.subplots(down, across, sharex=True, squeeze=False)
    for axis, (quantity, curves) in zip(grid.flat, panels.items(), strict=True):
        for name, (colour, line) in method_styles(m.name for m in methods).items():
            if name not in curves:
                continue
            c = curves[name]
            same = [other for other, curve in curves.items() if other == name or cover(c, curve)]
            style = {"marker": "o" if len(c.x) < MARKER_LIMIT and len(same) == 1 else None, "markersize": points(3)}
            dashes = line if len(same) == 1 else turn(same.index(name), len(same))
            (handles[name],) = axis.plot(c.x, c.mean, color=colour, linestyle=dashes, **style)
            axis.fill_between(c.x, c.low, c.high, color=colour, alpha=0.18, linewidth=0)
        means = np.concatenate([c.mean for c in curves.values()] or [np.ones(1)])
        if "%" not in quantity and needs_log_scale(means):
            axis.set_yscale("log")
        if "%" in quantity and fit_percentages(axis, [(c.x, c.low, c.high) for c in curves.values()]):
            note = f"{shown_band}; {OFF_AXIS}"
        last = max((c.x[-1] for c in curves.values()), default=0.0)
        if from_start and last > 0:
            axis.set_xlim(-EDGE * last, (1 + EDGE) * last)
        style_axes(axis)
        axis.set_ylabel(quantity)
    set_note(grid[0, 0], note)
    for axis in grid[-1]:
        axis.set_xlabel(UNITS[x_axis] + (MEAN_TIME if x_axis == "seconds" and not is_single else ""))
    if len(methods) > 1:
        add_legend(figure, {labels[name]: handles[name] for name in labels if name in handles}, columns)
    return figure
