"""The cost to reach the target: what the numbers are, how exact they can be, and a bar for each method."""

import textwrap

from matplotlib.figure import Figure

from ...reporting.figure_style import legend_width, points
from ...reporting.method_styles import method_styles
from ...reporting.style import LINES, escape_math, new_figure, set_note, style_axes
from ..methods import COST, Comparison, has_single_runs
from ..metrics import AXES, TARGETS, Target
from ..records.target_records import first_at_target, selection_kinds, target_rows
from ..significance import MIN_SEEDS, half_width

UNITS = {axis: axis for axis in AXES} | {"gradients": f"gradients ({COST})", "seconds": "training time (s)"}
COARSE = 0.2  # distance of evaluations, of the lowest cost, above which it is said
CUT = "whisker: 95 % interval, cut at the length of the runs"
HATCHES = ("", "///", "...", "xxx", "---", "\\\\\\", "ooo", "+++")  # of bars, in place of the lines of curves


def evaluation_distance(comparison: Comparison, axis: str) -> float:
    """Returns how far the records that reached the target are from the ones before them, at most.

    Args:
        comparison: the methods and their runs.
        axis: one of AXES, in whose unit the distance is.
    """
    column = AXES[axis]
    runs, target = comparison.runs, target_of(comparison)
    reached = first_at_target(runs, target)[column]
    if reached.empty:
        return 0.0
    rows = target_rows(runs.metrics, selection_kinds(runs), target.metric)
    rows = rows[rows["run"].isin(reached.index)]
    before = rows[rows[column] < rows["run"].map(reached)].groupby("run")[column].max()
    return float((reached - before.reindex(reached.index).fillna(reached)).max())


def target_of(comparison: Comparison) -> Target:
    """Returns the target of a comparison that has one."""
    assert comparison.target is not None
    return comparison.target


def target_note(comparison: Comparison, axis: str) -> str:
    """Returns what the cost to reach the target is, and how exact it can be."""
    return f"{target_rule(comparison, axis)}; {target_limits(comparison, axis)}"


def target_rule(comparison: Comparison, axis: str) -> str:
    """Returns what the cost to reach the target is."""
    rule = " (the highest that every run reached which did not diverge, rounded down)"
    rule = rule if comparison.has_usual_target else ""
    target = target_of(comparison)
    metric = TARGETS[target.metric]
    place = f" on the {target_sets(comparison)} set" if metric.kind is None else ""
    limit = "at least" if target.more_is_better else "at most"
    return (
        f"{axis} to {target}{rule}: until the first {metric.records} with {limit} this {metric.label}{place}; mean over"
        " the runs that reached it"
    )


def target_sets(comparison: Comparison) -> str:
    """Returns on which sets the target is."""
    return " or ".join(sorted(comparison.runs.summaries["best_on"].dropna().unique()))


def bars_text(comparison: Comparison, axis: str) -> str:
    """Returns what the bars of the figure are, in a sentence; empty where no run reached the target."""
    if not any(method.to_target[axis].n for method in comparison.methods):
        return ""
    if has_single_runs(comparison.methods):
        return "In the figure, a bar is one run."
    whisker = f"a whisker its 95 % interval, from {MIN_SEEDS} runs on"
    return f"In the figure, a bar is the mean over the runs that reached it, {whisker}."


def target_limits(comparison: Comparison, axis: str) -> str:
    """Returns how exact the cost to reach the target can be."""
    later = "fall below" if target_of(comparison).more_is_better else "rise above"
    return f"a run may {later} the target again; {distance_text(comparison, axis)}"


def distance_text(comparison: Comparison, axis: str) -> str:
    """Returns how far the records are apart, or why that means nothing, and where it is too coarse for the costs."""
    distance = evaluation_distance(comparison, axis)
    means = [method.to_target[axis].mean for method in comparison.methods if method.to_target[axis].n]
    runs, target = comparison.runs, target_of(comparison)
    metric = TARGETS[target.metric]
    if not means:
        values = target_rows(runs.metrics, selection_kinds(runs), target.metric)["number"]
        best = f"highest is {values.max():.4g}" if target.more_is_better else f"lowest is {values.min():.4g}"
        return f"no run reached it: the {best}"
    if distance == 0:
        other = "higher" if target.more_is_better else "lower"
        return f"the runs reached it at their first {metric.records}: give a {other} --target"
    text = f"{metric.records}s are up to {distance:,.3g} {axis.removesuffix('s') if distance == 1 else axis} apart"
    if distance > COARSE * min(means):
        text += f", too coarse to tell methods apart that differ by less: give a smaller {metric.interval}"
    return text


def draw_target_costs(comparison: Comparison, axis: str) -> Figure:
    """Draws the cost to reach the target, a bar for each method, the first at the top."""
    methods = comparison.methods
    width = round(0.4 * legend_width())
    names = ["\n".join(textwrap.wrap(m.label, width)) for m in methods]
    longest = max(name.count("\n") + 1 for name in names)
    figure = new_figure(0.3, 0.7 + max(0.5, 0.18 * longest) * len(methods))
    axes = figure.subplots()
    styles = method_styles(m.name for m in methods)
    is_cut = False
    for y, method in enumerate(methods):
        cost = method.to_target[axis]
        colour, line = styles[method.name]
        end = 0.0
        if cost.n:
            hatch = HATCHES[LINES.index(line)]
            axes.barh(y, cost.mean, height=0.6, color=colour, hatch=hatch, edgecolor="white", linewidth=0)
            end = cost.mean
        if cost.n >= MIN_SEEDS:
            extent = [[cost.mean - cost.low], [cost.high - cost.mean]]
            axes.errorbar(cost.mean, y, xerr=extent, color="0.25", capsize=points(3))
            end = cost.high
            is_cut |= cost.high < cost.mean + half_width(cost)
        if method.reached_text:
            note = f"  {method.reached_text} runs"
            axes.annotate(note, (end, y), va="center", fontsize=points(9), annotation_clip=False)
    axes.set_yticks(range(len(methods)), [escape_math(name) for name in names], fontsize=points(9))
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    target, sets = target_of(comparison), target_sets(comparison)
    if target.more_is_better:
        label = f"{UNITS[axis]} to {target} {sets} top-1 accuracy"
    else:
        label = f"{UNITS[axis]} to {f'{sets} ' if TARGETS[target.metric].kind is None else ''}{target}"
    beside = max(len(line) for name in names for line in name.splitlines())
    axes.set_xlabel("\n".join(textwrap.wrap(label, legend_width() - beside)))
    if is_cut:
        set_note(axes, CUT, beside)
    return figure
