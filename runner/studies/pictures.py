"""The pictures of a study: curves of its sweeps' runs, and points with the intervals of two figures."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comparison.figures import AXIS_LABELS, draw_curve_panels, method_curves
from ..comparison.methods import AXES, METRICS, Comparison, compare_methods, typed_text
from ..comparison.significance import Estimate
from ..reporting.fisher_curves import CUMULATIVE, PER_STEP
from ..reporting.style import LEGEND_WIDTH, PALETTE, SavedFigure, add_legend, new_figure, save_figure, style_axes
from ..system.errors import UserError, nearest
from .metrics import Figures, place
from .schema import StudyPicture, reject_unknown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

MARKERS = "os^DvP*X"
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
    **{("probe", column): label for column, label in (PER_STEP | CUMULATIVE).items()},
}
TITLE_WIDTH = 80  # letters


def draw_study_picture(picture: StudyPicture, number: int, figures: Figures, folder: Path) -> SavedFigure | str:
    """Draws one of a study's pictures as SVG and PNG; returns it, or why there is nothing to draw.

    Raises:
        UserError: the study's file asks for what cannot be drawn.
    """
    lacks = figures.lacking(picture.sweep)
    if lacks:
        return lacks
    state = figures.sweeps[picture.sweep]
    try:
        comparison = methods_of(picture, figures)
    except UserError:
        if state.state != "done":  # what is missing may be what was asked for
            return state.reason or f"runs of the sweep {picture.sweep} are missing"
        raise
    draw = draw_points if isinstance(picture.x, dict) else draw_curves
    canvas = draw(picture, comparison, figures)
    if canvas is None:
        return "its runs have nothing to draw"
    for axis in canvas.axes:
        if "x" in picture.log:
            axis.set_xscale("log", nonpositive="mask")
        if "y" in picture.log:
            axis.set_yscale("log", nonpositive="mask")
    title = f"{picture.title} ({picture.paper})"
    canvas.suptitle(textwrap.fill(title, TITLE_WIDTH), fontsize=11)
    name = re.sub(r"\W+", "-", picture.title.lower()).strip("-")[:60]
    return save_figure(canvas, f"picture-{number}-{name}", title, folder)


def methods_of(picture: StudyPicture, figures: Figures) -> Comparison:
    """Returns the runs of a picture, grouped into what gets a line or a point each, with short names."""
    there = figures.runs_of(picture.sweep)
    names = there.having(picture.where)
    if not names:
        wanted = " ".join(f"{key}={typed_text(value)}" for key, value in picture.where.items())
        raise UserError(f"where: no run of the sweep {picture.sweep} has {wanted}")
    try:
        comparison = compare_methods(there.only(names), picture.by)
    except UserError as error:
        raise UserError(str(error).removeprefix("--")) from error
    return replace(comparison, methods=short_methods(comparison))


def short_methods(comparison: Comparison) -> list[Any]:
    """Returns the methods by names that say only what tells them apart, as in `adam` or `sgd lr=0.1`."""
    text = comparison.runs.configs.map(typed_text)
    columns = [key for key in comparison.differing if text[key].nunique() > 1]

    def short(run: str) -> str:
        parts = [(key, text.at[run, key]) for key in columns]
        return " ".join(part_of_name(key, value) for key, value in parts if value)

    names = [short(method.runs[0]) or method.name for method in comparison.methods]
    if len(set(names)) < len(names):  # keys of different groups with the same last part
        return comparison.methods
    return [replace(method, name=name) for method, name in zip(comparison.methods, names, strict=True)]


def part_of_name(key: str, value: str) -> str:
    """Returns a value, with the last part of its key where it does not speak for itself.

    >>> part_of_name("choices.optimizer", "adam"), part_of_name("optimizer.lr", "0.1")
    ('adam', 'lr=0.1')
    """
    is_word = value[0].isalpha() and value not in ("true", "false", "null")
    return value if is_word else f"{key.rpartition('.')[2]}={value}"


def draw_curves(picture: StudyPicture, comparison: Comparison, figures: Figures) -> "Canvas | None":
    """Draws a line for each method: the mean over its seeds, and their range."""
    del figures
    if picture.x not in AXES:
        raise UserError(f"x: must be one of {', '.join(AXES)}, or a figure's part, and is {picture.x}")
    reject_unknown("y: ", picture.y, ["kind", "column"])
    if len(picture.y) != 2:
        raise UserError("y: must have kind and column, of rows of metrics.jsonl")
    kind, column = picture.y["kind"], picture.y["column"]
    drawn = comparison
    if picture.since is not None:
        axis, amount = place(picture.since, "since")
        rows = comparison.runs.metrics
        drawn = replace(comparison, runs=replace(comparison.runs, metrics=rows[rows[axis] >= amount]))
    curves = method_curves(drawn, kind, column, AXES[str(picture.x)])
    if not curves and picture.since is not None:
        return None
    if not curves:
        rows = comparison.runs.metrics
        known = rows[rows["kind"] == kind].dropna(axis=1, how="all")
        if known.empty:
            kinds = ", ".join(dict.fromkeys(rows["kind"]))
            raise UserError(f"y: kind: {kind}: there are no such rows, but of {kinds}")
        raise UserError(f"y: column: {column}: rows of kind {kind} have none{nearest(str(column), map(str, known))}")
    quantity = QUANTITIES.get((kind, column), f"{column.replace('_', ' ')} ({kind})")
    return draw_curve_panels({quantity: curves}, comparison.methods, AXIS_LABELS[str(picture.x)])


def draw_points(picture: StudyPicture, comparison: Comparison, figures: Figures) -> "Canvas | None":
    """Draws a point for each method: the means of two figures over its seeds, with their 95 % intervals."""
    if picture.since is not None:
        raise UserError("since: belongs to curves")
    found, left_out = [], []
    for index, method in enumerate(comparison.methods):
        own = comparison.runs.configs.loc[method.runs[0], comparison.differing].to_dict()
        where = picture.where | own
        x, y = (
            figures.find({"sweep": picture.sweep, **part, "where": where | part.get("where", {})})
            for part in (picture.x, picture.y)
            if isinstance(part, dict)
        )
        if x.is_finite and y.is_finite and x.values and y.values:
            found.append((index, method.name, x.estimate, y.estimate))
        else:
            left_out.append(method.name)
    if not found:
        return None
    columns = max(1, LEGEND_WIDTH // (8 + max(len(name) for _, name, _, _ in found)))
    canvas = new_figure(4.2 + 0.2 * -(-len(found) // columns))
    axis = canvas.subplots()
    drawn = {}
    for index, name, along, up in found:
        drawn[name] = axis.errorbar(
            along.mean,
            up.mean,
            xerr=reach(along),
            yerr=reach(up),
            fmt=MARKERS[(index + index // len(PALETTE)) % len(MARKERS)],
            color=PALETTE[index % len(PALETTE)],
            capsize=3,
        )
    style_axes(axis)
    axis.set_xlabel(label_of(picture.x))
    axis.set_ylabel(label_of(picture.y))
    missing = f"; not in all runs: {', '.join(left_out)}" if left_out else ""
    axis.set_title(f"mean over seeds, and its 95 % interval{missing}", fontsize=9, loc="left")
    add_legend(canvas, drawn, columns)
    return canvas


def reach(found: Estimate) -> Sequence[Sequence[float]] | None:
    """Returns how far an interval goes to both sides, as matplotlib takes it; None where there is none."""
    return None if found.n == 1 else [[found.mean - found.low], [found.high - found.mean]]


def label_of(part: Any) -> str:
    """Returns what a figure's part is, as the label of an axis.

    >>> label_of({"row": {"kind": "test", "column": "top1", "reach": 85, "axis": "epochs"}})
    'epochs until test top-1 accuracy (%) is 85'
    >>> label_of({"value": "final.top1"})
    'final top-1 (%)'
    """
    if "value" in part:
        return next((what for column, what, _ in METRICS.values() if column == part["value"]), str(part["value"]))
    if "row" not in part:
        ((kind, asked),) = ((k, v) for k, v in part.items() if k in ("ensemble", "landscape"))
        return f"{asked['value']} ({kind})".replace("_", " ")
    row = part["row"]
    quantity = QUANTITIES.get((row["kind"], row["column"]), f"{row['column']} ({row['kind']})".replace("_", " "))
    level = row.get("reach", row.get("fall_to"))
    if level is not None:
        return f"{row.get('axis', 'steps')} until {quantity} is {level:g}"
    return f"{quantity}, {row['take']}" if "take" in row else f"{quantity} at {row['at']}"
