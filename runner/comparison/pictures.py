"""Pictures of a comparison: a line a method with the spread of its seeds, and bars of the way to the target."""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..reporting.loss_terms import term_names, terms_drawn
from ..reporting.style import (
    LEGEND_WIDTH,
    MARKER_LIMIT,
    PALETTE,
    SavedFigure,
    add_legend,
    escape_math,
    needs_log_scale,
    new_figure,
    running_mean,
    save_figure,
    style_axes,
)
from .methods import AXES, COST, Comparison, Method

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", ":", "-.")  # the next one for every eight methods

LABELS = {
    "steps": "steps",
    "epochs": "epochs",
    "samples": "samples",
    "gradients": f"gradients ({COST})",
    "seconds": "training time (s), mean over the seeds at each step",
}
RATES = {"learning rate": "lr", "step size": "step_size"}  # the second where an optimizer reports it
BAND = "line: mean over seeds; band: lowest to highest of them"
POINTS = 1000  # of a line at most: more cannot be told apart, and make the SVG heavy
BAR_NAME_WIDTH = 38  # letters of a name beside its bar


@dataclass(frozen=True)
class Curve:
    """A quantity over the runs of a method: arrays of one length, without nan."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def draw_pictures(comparison: Comparison, against: str, out: Path) -> list[SavedFigure]:
    """Draws what the runs hold into `out`, as SVG and PNG; a picture of nothing is left out.

    Args:
        comparison: the methods and their runs.
        against: one of AXES, the horizontal axis.
        out: a folder; it is made where it is missing.
    """
    out.mkdir(parents=True, exist_ok=True)
    comparison, terms = with_terms(comparison)

    def curves(kind: str, column: str) -> dict[str, Curve]:
        return curves_of(comparison, kind, column, AXES[against])

    top1 = curves("test", "top1")
    lines = {
        "test_top1": ("Test accuracy", {"test top-1 accuracy (%)": top1}),
        "end": ("Test accuracy, the last quarter of each line", {"test top-1 accuracy (%)": last_quarter(top1)}),
        "test_loss": ("Test loss", {"test loss": curves("test", "loss")}),
        "train_top1": ("Training accuracy", {"top-1 on batches (%), running mean": curves("train", "top1")}),
        "train_loss": ("Training loss", {"total loss on batches, running mean": curves("train", "total")}),
        "lr": (
            "Learning rate",
            {"learning rate": curves("train", "lr"), "step size": curves("train", "step_size")},
        ),
        "loss_terms": ("Terms of the training loss", {t: curves("train", t) for t in terms}),
    }
    pictures = []
    for name, (title, every) in lines.items():
        panels = {quantity: curves for quantity, curves in every.items() if curves}
        if panels:
            figure = draw_lines(panels, comparison.methods, LABELS[against])
            pictures.append(save_figure(figure, name, f"{title} against {against}", out))
    if any(method.to_target[against].n for method in comparison.methods):
        figure = draw_bars(comparison.methods, against)
        title = f"{against.capitalize()} to {comparison.target:g} % top-1 accuracy"
        pictures.append(save_figure(figure, "time_to_target", title, out))
    return pictures


def colour_of(methods: list[Method]) -> dict[str, tuple[str, str]]:
    """Returns a colour and a line style for each method's name; the line differs once colours come again."""
    eight = len(PALETTE)
    return {m.name: (PALETTE[i % eight], LINES[i // eight % len(LINES)]) for i, m in enumerate(methods)}


def with_terms(comparison: Comparison) -> tuple[Comparison, list[str]]:
    """Adds columns for what is drawn of the terms of the training loss; returns their labels too."""
    metrics, configs = comparison.runs.metrics, comparison.runs.configs
    regularizers = list(dict.fromkeys(k.split(".")[1] for k in configs if k.startswith("regularizer.")))
    there = [name for name in term_names(regularizers) if name in metrics]
    numbers = {name: pd.to_numeric(metrics[name], errors="coerce").to_numpy(float) for name in there}
    terms = terms_drawn(numbers, regularizers)
    return replace(comparison, runs=replace(comparison.runs, metrics=metrics.assign(**terms))), list(terms)


def curves_of(comparison: Comparison, kind: str, column: str, axis: str) -> dict[str, Curve]:
    """Returns a curve for each method that has such rows.

    Args:
        comparison: the methods and their runs.
        kind: of rows of metrics.jsonl; those of training are smoothed, but for the learning rate.
        column: the quantity.
        axis: the column that it is drawn over, one of the values of AXES.
    """
    metrics = comparison.runs.metrics
    if column not in metrics:
        return {}
    rows = metrics[metrics["kind"] == kind]
    frame = pd.DataFrame({"run": rows["run"], "step": rows["step"], "x": rows[axis]})
    frame["value"] = pd.to_numeric(rows[column], errors="coerce")
    frame = frame.dropna().drop_duplicates(["run", "step"], keep="last")
    by_run = {str(run): part for run, part in frame.groupby("run", sort=False)}
    found = {}
    for method in comparison.methods:
        parts = [by_run[run] for run in method.runs if run in by_run]
        if kind == "train" and column != "lr":
            parts = [part.assign(value=running_mean(part["value"].to_numpy())) for part in parts]
        if parts:
            found[method.name] = curve(parts)
    return found


def curve(parts: list[pd.DataFrame]) -> Curve:
    """Returns the mean and the range of runs, aligned by step: between its own steps, a run is interpolated.

    A run that ended early counts up to its end.

    Args:
        parts: for each run, columns `step` (rising), `x` and `value`.
    """
    steps = np.unique(np.concatenate([part["step"] for part in parts]))
    if len(steps) > POINTS:
        steps = steps[np.linspace(0, len(steps) - 1, POINTS).astype(int)]

    def aligned(column: str) -> np.ndarray:
        rows = [np.interp(steps, p["step"], p[column], left=np.nan, right=np.nan) for p in parts]
        return np.array(rows, dtype=float)

    values, places = aligned("value"), aligned("x")
    covered = ~np.isnan(values).all(axis=0)
    values, places = values[:, covered], places[:, covered]
    # the mean of the steps' lengths, added up: the mean of the places would jump back where a slow run ends
    lengths = np.diff(places, axis=1)
    there = ~np.isnan(lengths)
    mean_lengths = np.where(there, lengths, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    x = np.nanmean(places[:, 0]) + np.concatenate([[0.0], np.cumsum(mean_lengths)])
    return Curve(x, np.nanmean(values, axis=0), np.nanmin(values, axis=0), np.nanmax(values, axis=0))


def last_quarter(curves: dict[str, Curve]) -> dict[str, Curve]:
    """Returns the end of each curve, from three quarters of its own way on; empty where none has two points there.

    Its own, as on a clock the slow would be left alone in the last quarter of the common axis.
    """
    found = {}
    for name, c in curves.items():
        kept = c.x >= 0.75 * c.x[-1]
        found[name] = Curve(c.x[kept], c.mean[kept], c.low[kept], c.high[kept])
    return found if any(len(c.x) > 1 for c in found.values()) else {}


def draw_lines(panels: dict[str, dict[str, Curve]], methods: list[Method], label: str, across: int = 1) -> "Figure":
    """Draws curves, a panel for each quantity, with one legend below all of them.

    Args:
        panels: for the label of each quantity, curves by the names of their methods.
        methods: all of them, so that each keeps its colour.
        label: of the horizontal axis.
        across: panels side by side.
    """
    names = [m.name for m in methods if any(m.name in curves for curves in panels.values())]
    columns = max(1, LEGEND_WIDTH // (8 + max(map(len, names))))
    down = -(-len(panels) // across)
    figure = new_figure(3.6 * down / across**0.5 + 0.6 + 0.2 * -(-len(names) // columns))
    drawn: dict[str, Any] = {}
    grid = figure.subplots(down, across, sharex=True, squeeze=False)
    for axis, (quantity, curves) in zip(grid.flat, panels.items(), strict=True):
        for name, (colour, line) in colour_of(methods).items():
            if name not in curves:
                continue
            c = curves[name]
            marker = "o" if len(c.x) < MARKER_LIMIT else None
            (drawn[name],) = axis.plot(c.x, c.mean, color=colour, linestyle=line, marker=marker, markersize=3)
            axis.fill_between(c.x, c.low, c.high, color=colour, alpha=0.18, linewidth=0)
        means = np.concatenate([c.mean for c in curves.values()] or [np.ones(1)])
        if "%" not in quantity and needs_log_scale(means):
            axis.set_yscale("log")
        style_axes(axis)
        axis.set_ylabel(quantity)
    grid[0, 0].set_title(BAND, fontsize=9, loc="left")
    for axis in grid[-1]:
        axis.set_xlabel(label)
    add_legend(figure, {name: drawn[name] for name in names if name in drawn}, columns)
    return figure


def draw_bars(methods: list[Method], against: str) -> "Figure":
    """Draws what it took to reach the target, a bar a method, the first on top."""
    names = ["\n".join(textwrap.wrap(m.name, BAR_NAME_WIDTH)) for m in methods]
    longest = max(name.count("\n") + 1 for name in names)
    figure = new_figure(1.2 + max(0.5, 0.18 * longest) * len(methods))
    axis = figure.subplots()
    colours = colour_of(methods)
    for place, method in enumerate(methods):
        way = method.to_target[against]
        end = 0.0
        if way.n:
            axis.barh(place, way.mean, height=0.6, color=colours[method.name][0])
            end = way.mean
        if way.n > 1:
            low = max(way.low, 0.0)  # nothing takes less than no time, whatever Student's t says
            axis.errorbar(way.mean, place, xerr=[[way.mean - low], [way.high - way.mean]], color="0.25", capsize=3)
            end = way.high
        if method.reached < len(method.runs):
            told = f"  {method.reached} of {len(method.runs)} runs"
            axis.annotate(told, (end, place), va="center", fontsize=9, annotation_clip=False)
    axis.set_yticks(range(len(methods)), [escape_math(name) for name in names], fontsize=9)
    axis.set_ylim(len(methods) - 0.4, -0.6)
    axis.margins(x=0.12)
    axis.set_xlim(left=0)
    style_axes(axis)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel(LABELS[against].removesuffix(" at each step"))
    axis.set_title("mean of the runs that reached it, and its 95 % interval", fontsize=9, loc="left")
    return figure
