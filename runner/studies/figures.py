"""The figures of a study: curves over its runs, and points of two metrics with their confidence intervals."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.differences import typed_text
from ..comparison.figures.curves import draw_curve_panels, loss_label, method_curves
from ..comparison.figures.point_styles import RATE, point_legend, point_styles, rest_of_label
from ..comparison.methods import Comparison, compare_methods, has_single_runs
from ..comparison.metrics import AXES, METRICS
from ..comparison.significance import Estimate
from ..config.forms.object_files import require_keys
from ..reporting.figure_style import points
from ..reporting.fisher_curves import CUMULATIVE, PER_STEP
from ..reporting.method_styles import name_parts
from ..reporting.style import (
    PALETTE,
    SavedFigure,
    add_legend,
    escape_math,
    legend_height,
    new_figure,
    save_figure,
    set_note,
    set_title,
    style_axes,
)
from ..system.errors import UserError, nearest
from .metrics import MetricReader, MetricResult
from .record_metrics import parse_position
from .schema import StudyFigure, StudyTable, is_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = {
    ("test", "top1"): "test top-1 accuracy (%)",
    ("test", "top5"): "test top-5 accuracy (%)",
    ("test", "loss"): "test loss",
    ("validation", "top1"): "validation top-1 accuracy (%)",
    ("validation", "loss"): "validation loss",
    ("train", "top1"): "top-1 on batches (%), running mean",
    ("train", "total"): "total loss on batches, running mean",
    ("train", "cross_entropy"): "cross-entropy on batches, running mean",
    ("train", "lr"): "learning rate",
    ("train", "l2"): "L2 term of the loss",
    ("train", "checkpoint_distance_nearest"): "distance from the nearest snapshot",
    ("probe", "raw_loss"): "loss on a fixed training sample",
    **{("probe", column): label for column, label in (PER_STEP | CUMULATIVE).items()},
}
COLUMNS = 3  # of panels
HEADROOM = 1.15  # above what is drawn, for the marks of levels that are missed
MARGIN = 1.4  # beside the first and the last point, on a logarithmic axis
DASHES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of lines


def draw_study_figure(spec: StudyFigure, number: int, reader: MetricReader, folder: Path) -> SavedFigure | str:
    """Draws a figure of a study as PDF, SVG and PNG; returns it, or why there is nothing to draw.

    Args:
        spec: what is drawn.
        number: in the names of the files.
        reader: of the study's runs.
        folder: of the files.

    Raises:
        UserError: the study's file asks for something that its runs do not have.
    """
    why = reader.why_unavailable(spec.sweep)
    if why:
        return why
    state = reader.sweeps[spec.sweep]
    try:
        comparison = methods_of(spec, reader)
    except UserError:
        if state.state != "done":  # the missing runs may have it
            return state.reason or f"runs of the sweep {spec.sweep} are missing"
        raise
    draw = draw_metric_points if isinstance(spec.x, dict) else draw_mean_curves
    figure = draw(spec, comparison, reader)
    if figure is None:
        return "its runs have no such records"
    for axis in figure.axes:
        if "x" in spec.log:
            axis.set_xscale("log", nonpositive="mask")
        if "y" in spec.log:
            axis.set_yscale("log", nonpositive="mask")
    title = f"{spec.title} ({spec.paper})"
    set_title(figure, escape_math(title))
    name = re.sub(r"\W+", "-", spec.title.lower()).strip("-")[:60]
    return save_figure(figure, f"figure-{number}-{name}", title, folder)


def methods_of(spec: StudyFigure, reader: MetricReader) -> Comparison:
    """Returns the runs of a figure, grouped into methods; each gets a curve or a point."""
    sweep_runs = reader.sweep_runs(spec.sweep)
    names = sweep_runs.select(spec.where)
    if not names:
        query = " ".join(f"{key}={typed_text(value)}" for key, value in spec.where.items())
        raise UserError(f"where: no run of the sweep {spec.sweep} has {query}")
    try:
        return compare_methods(sweep_runs.subset(names), spec.by)
    except UserError as error:
        raise UserError(str(error).removeprefix("--")) from error


def draw_mean_curves(spec: StudyFigure, comparison: Comparison, reader: MetricReader) -> "Figure | None":
    """Draws a curve for each method: the mean over its seeds, and their range."""
    del reader
    if spec.x not in AXES:
        raise UserError(f"x: must be one of {', '.join(AXES)}, or a part of a metric, and is {spec.x}")
    require_keys("y", spec.y, ("kind", "column"))
    kind, column = spec.y["kind"], spec.y["column"]
    drawn = comparison
    if spec.since is not None:
        axis, amount = parse_position(spec.since, "since")
        records = comparison.runs.metrics
        drawn = replace(comparison, runs=replace(comparison.runs, metrics=records[records[axis] >= amount]))
    curves = method_curves(drawn, kind, column, AXES[str(spec.x)])
    if not curves and spec.since is not None:
        return None
    if not curves:
        records = comparison.runs.metrics
        of_kind = records[records["kind"] == kind].dropna(axis=1, how="all")
        if of_kind.empty:
            kinds = ", ".join(dict.fromkeys(records["kind"]))
            raise UserError(f"y: kind: {kind}: no such records; there are {kinds}")
        hint = nearest(str(column), map(str, of_kind))
        raise UserError(f"y: column: {column}: records of kind {kind} have no such column{hint}")
    quantities = QUANTITIES | {("test", "loss"): loss_label(comparison)}
    quantity = quantities.get((kind, column), f"{column.replace('_', ' ')} ({kind})")
    return draw_curve_panels({quantity: curves}, comparison.methods, str(spec.x))


def draw_metric_points(spec: StudyFigure, comparison: Comparison, reader: MetricReader) -> "Figure | None":
    """Draws a point for each method: the means of two metrics over its seeds, with their 95 % confidence intervals."""
    if spec.since is not None:
        raise UserError("since: belongs to curves")
    means, left_out = [], []
    for method in comparison.methods:
        differences = comparison.runs.configs.loc[method.runs[0], comparison.differing].to_dict()
        where = spec.where | differences
        x, y = (
            reader.read({"sweep": spec.sweep, **part, "where": where | part.get("where", {})})
            for part in (spec.x, spec.y)
            if isinstance(part, dict)
        )
        if x.is_finite and y.is_finite and x.values and y.values:
            means.append((method, x.estimate, y.estimate))
        else:
            left_out.append(method.label)
    if not means:
        return None
    rates = {m.name: {RATE: value} for m in comparison.methods if (value := name_parts(m.name).get(RATE))}
    styles = point_styles({m.name: rest_of_label(m, rates.get(m.name, {})) for m, _, _ in means})
    handles, columns = point_legend(styles.values())
    figure = new_figure(4.2, legend_height(len(handles), columns))
    axes = figure.subplots()
    for method, x_estimate, y_estimate in means:
        style = styles[method.name]
        axes.errorbar(
            x_estimate.mean,
            y_estimate.mean,
            xerr=error_bar(x_estimate),
            yerr=error_bar(y_estimate),
            fmt=style.marker,
            color=style.colour,
            markeredgecolor="black",
            markersize=points(7),
            capsize=points(3),
        )
    x_means, y_means = [x.mean for _, x, _ in means], [y.mean for _, _, y in means]
    for side, values, set_limits in (("x", x_means, axes.set_xlim), ("y", y_means, axes.set_ylim)):
        if min(values) >= 0 and side not in spec.log:  # an interval may go below 0 where no value does
            set_limits(max(0.0, set_limits()[0]))
    style_axes(axes)
    axes.set_xlabel(axis_label(spec.x))
    axes.set_ylabel(axis_label(spec.y))
    missing = f"; not in all runs: {', '.join(left_out)}" if left_out else ""
    what = (
        "one run of each method"
        if has_single_runs(comparison.methods)
        else "mean over seeds with 95 % confidence interval"
    )
    set_note(axes, f"{what}{missing}")
    add_legend(figure, handles, columns)
    return figure


def draw_table(
    table: StudyTable, results: Mapping[tuple[str, str], MetricResult], name: str, folder: Path
) -> SavedFigure:
    """Draws a table of medians: a panel for each column, points for rows labelled with numbers, lines for the others.

    Args:
        table: whose `plot` says what the numbers are.
        results: by row and column.
        name: of the files, without extension.
        folder: of the files.
    """
    columns = [column for column in table.columns if any(results[row, column].values for row in table.rows)]
    numbers, others = ([row for row in table.rows if is_number(row) is which] for which in (True, False))
    ticks = [*map(float, numbers)]
    row_count = -(-len(columns) // COLUMNS)
    figure = new_figure(2.4 * row_count, legend_height(2 + len(others), 2))
    panels = figure.subplots(row_count, COLUMNS, squeeze=False).flat
    handles: dict[str, Any] = {}
    for column, panel in zip(columns, panels, strict=False):
        measured = {float(row): results[row, column].median for row in numbers if results[row, column].values}
        reached = {x: y for x, y in measured.items() if math.isfinite(y)}
        (handles[f"by {table.plot}"],) = panel.plot(list(reached), list(reached.values()), "o-", color=PALETTE[0])
        missed = [x for x in measured if x not in reached]
        if missed:
            style = {"color": PALETTE[1], "linestyle": "", "clip_on": False, "transform": panel.get_xaxis_transform()}
            (handles["missed the level"],) = panel.plot(missed, [0.96] * len(missed), "^", **style)
        for i, row in enumerate(others):
            if math.isfinite(value := results[row, column].median):
                grey = str(0.3 * (i // len(DASHES)))
                handles[row] = panel.axhline(value, color=grey, linestyle=DASHES[i % len(DASHES)])
        panel.set_xscale("log")
        panel.set_xticks(ticks, numbers, minor=False)
        panel.minorticks_off()
        panel.set_xlim(min(ticks) / MARGIN, max(ticks) * MARGIN)
        panel.tick_params(labelsize=points(8))
        panel.set_ylim(0, HEADROOM * panel.get_ylim()[1])
        panel.set_title(column, fontsize=points(9))
        style_axes(panel)
        panel.set_xlabel(str(table.plot))
    for panel in panels:  # those left over
        panel.remove()
    title = f"{table.paper[:1].upper()}{table.paper[1:]}: {table.title}"
    set_title(figure, escape_math(title))
    add_legend(figure, handles, 2)
    return save_figure(figure, name, title, folder)


def error_bar(e: Estimate) -> Sequence[Sequence[float]] | None:
    """Returns the extent of a confidence interval below and above the mean, for matplotlib; None without one."""
    return None if e.n == 1 else [[e.mean - e.low], [e.high - e.mean]]


def axis_label(part: Any) -> str:
    """Returns the label of an axis for a part of a metric.

    >>> axis_label({"row": {"kind": "test", "column": "top1", "reach": 85, "axis": "epochs"}})
    'epochs until test top-1 accuracy (%) is 85'
    >>> axis_label({"value": "final.top1"})
    'final top-1 (%)'
    """
    if "value" in part:
        return next((m.label for m in METRICS.values() if m.column == part["value"]), str(part["value"]))
    if "row" not in part:
        ((source, query),) = ((k, v) for k, v in part.items() if k in ("ensemble", "landscape"))
        return f"{query['value']} ({source})".replace("_", " ")
    row = part["row"]
    quantity = QUANTITIES.get((row["kind"], row["column"]), f"{row['column']} ({row['kind']})".replace("_", " "))
    level = row.get("reach", row.get("fall_to"))
    if level is not None:
        return f"{row.get('axis', 'steps')} until {quantity} is {level:g}"
    return f"{quantity}, {row['take']}" if "take" in row else f"{quantity} at {row['at']}"
