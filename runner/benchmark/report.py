"""The files of a benchmark: report.html, table.md, table.tex, the figure of the profiles, benchmark.json."""

import math
import re
from pathlib import Path
from typing import Any

from ..comparison.report import environment_rows
from ..comparison.tables.noted_table import NotedTable, as_latex, as_markdown
from ..records.run_folder import read_summary
from ..reporting.figure_style import STYLE
from ..reporting.html import render
from ..reporting.method_styles import Style, method_styles
from ..reporting.style import (
    SavedFigure,
    add_legend,
    legend_columns,
    legend_height,
    new_figure,
    save_figure,
    style_axes,
)
from ..reporting.tables import label_of
from ..scores.profiles import TAU_MAX
from ..system.files import plural, write_json, write_text
from .ranking import Ranking, ranking_as_json, run_environments, taus
from .results import AXES

Table = tuple[list[str], list[list[str]]]
MISSED = "missed"
COSTS = {
    "gradients": "gradients, and what a step costs beside them in gradients",
    "steps": "updates of the weights",
    "seconds": "seconds of training, on this machine and beside the other runs",
}


def write_report(ranking: Ranking) -> list[str]:
    """Writes all files into the folder of the benchmark; returns their names."""
    folder = ranking.results.plan.folder
    figure = draw_profiles(ranking, folder)
    tables = [
        NotedTable("ranking", "Ranking", *ranking_table(ranking), ranking_note(ranking)),
        NotedTable("times", "Cost to the target", *times_table(ranking), times_note(ranking)),
    ]
    write_text(folder / "table.md", as_markdown(tables).lstrip())
    write_text(folder / "table.tex", as_latex(tables, STYLE.get().table_width, label_of(folder)).lstrip())
    write_json(folder / "benchmark.json", ranking_as_json(ranking))
    write_text(folder / "report.html", page(ranking, tables, figure))
    figures = [path.name for path in (figure.svg, figure.png, figure.pdf)]
    return ["report.html", "table.md", "table.tex", *figures, "benchmark.json"]


def ranking_table(ranking: Ranking) -> Table:
    """Returns (header, rows): a row for each submission, the best first."""
    others = [axis for axis in AXES if axis != ranking.axis]
    has_intervals, labels = ranking.results.plan.effort.studies > 1, ranking.labels
    header = ["submission", f"score ({ranking.axis})", *["95 % interval of the score"] * has_intervals]
    header += [f"score ({axis})" for axis in others]
    header += ["targets reached", "relative speed (IQM)", f"P(faster than {labels[ranking.baseline]})"]
    rows = []
    for name in ranking.order:
        score = ranking.scores[ranking.axis][name]
        row = [labels[name], f"{score.score:.3f}", *[f"{score.low:.3f} to {score.high:.3f}"] * has_intervals]
        row += [f"{ranking.scores[axis][name].score:.3f}" for axis in others]
        row += [f"{score.reached} of {ranking.counted}", f"{score.interquartile_mean:.2f}"]
        rows.append([*row, "" if name == ranking.baseline else f"{score.improvement:.2f}"])
    return header, rows


def ranking_note(ranking: Ranking) -> str:
    """Returns what the columns of the ranking are, in sentences."""
    studies = ranking.results.plan.effort.studies
    coarse = ", and coarse with so few" if studies < 5 else ""
    interval = (
        f"The interval is a percentile bootstrap over the {studies} studies, drawn apart for each submission and"
        f" workload{coarse}."
        if studies > 1
        else "With one study there is no interval."
    )
    return (
        f"The score is AlgoPerf's: the integral of the performance profile over τ from 1 to {TAU_MAX:g} on a linear"
        f" axis, divided by {TAU_MAX - 1:g}. It is 1 for a submission that is the fastest on every workload, and"
        f" depends on which submissions take part. Ranked by {ranking.axis}: {COSTS[ranking.axis]}. {interval} Relative"
        " speed: the cost of the fastest submission, by its median study, over that of a study, 0 for a miss; IQM: the"
        " mean of the middle half over workloads that are not held out and studies. P: how likely a study is faster"
        f" than one of {ranking.labels[ranking.baseline]} on such a workload drawn at random, a tie counted half."
    )


def times_note(ranking: Ranking) -> str:
    """Returns what the costs are, in sentences."""
    plan = ranking.results.plan
    if plan.ruleset == "external":
        rule = (
            f"External tuning: a study has {plural(plan.trials, 'trial')}, points of the submission's search space"
            " drawn at random, the same on every workload, and counts with the trial that reaches the target first."
        )
    else:
        rule = "Self-tuning: a study is one run of the configuration as it is."
    return (
        f"{rule} The median over {plural(plan.effort.studies, 'study')}; a study without a hit counts as infinite. A"
        " cost is that of the first evaluation at the target: no finer than the evaluations are apart."
    )


def times_table(ranking: Ranking) -> Table:
    """Returns (header, rows): for each workload the median cost to its target, a column for each submission."""
    plan, medians = ranking.results.plan, ranking.medians[ranking.axis]
    position = {submission.name: i for i, submission in enumerate(plan.submissions)}
    header = [f"{ranking.axis} to the target", *(ranking.labels[name] for name in ranking.order)]
    rows = []
    for column, name in enumerate(plan.suite.workloads):
        values = [medians[position[submission], column] for submission in ranking.order]
        rows.append([name, *(cost_text(value) for value in values)])
    return header, rows


def cost_text(value: float) -> str:
    """Returns a cost, or that the target was missed.

    >>> cost_text(1234.0), cost_text(0.5), cost_text(math.inf)
    ('1,234', '0.50', 'missed')
    """
    if math.isinf(value):
        return MISSED
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def draw_profiles(ranking: Ranking, folder: Path) -> SavedFigure:
    """Draws the performance profiles of all submissions."""
    from matplotlib import rcParams

    submissions, scores = ranking.results.plan.submissions, ranking.scores[ranking.axis]
    texts = {name: f"{label} (score {scores[name].score:.3f})" for name, label in ranking.labels.items()}
    columns = legend_columns(texts.values())
    figure = new_figure(2.7, 0.4 + legend_height(len(texts), columns))
    axis = figure.subplots()
    lines, styles = {}, submission_styles(ranking)
    for i, submission in enumerate(submissions):
        style: dict[str, Any] = dict(zip(("color", "linestyle"), styles[submission.name], strict=True))
        # each next line is a little thinner, so that equal profiles are seen
        width = (2.0 - 1.2 * i / max(1, len(submissions) - 1)) * rcParams["lines.linewidth"]
        profile = scores[submission.name].profile
        lines[submission.name] = axis.step(taus(), profile, where="post", linewidth=width, **style)[0]
    axis.set(xlim=(1, TAU_MAX), ylim=(-0.02, 1.02))
    axis.set_xlabel(f"τ: {ranking.axis} to the target, relative to the fastest submission")
    axis.set_ylabel("fraction of workloads\nwithin τ times the fastest")
    style_axes(axis)
    add_legend(figure, {texts[name]: lines[name] for name in ranking.order}, columns)
    return save_figure(figure, "profile", "Fraction of workloads within τ times the fastest", folder)


def submission_styles(ranking: Ranking) -> dict[str, Style]:
    """Returns the colour and the line style of each submission, by its name."""
    names = {s.name: " ".join(s.overrides) for s in ranking.results.plan.submissions}
    styles = method_styles(names.values())
    return {name: styles[overrides] for name, overrides in names.items()}


def page(ranking: Ranking, tables: list[NotedTable], figure: SavedFigure) -> str:
    """Returns the result page, one HTML file that needs no other."""
    plan = ranking.results.plan
    environments, count = environment(ranking)
    return render(
        "benchmark.html.jinja",
        plan=plan,
        ranking=ranking,
        conclusion=conclusion(ranking),
        tables=tables,
        profiles=figure,
        colours={ranking.labels[name]: colour for name, (colour, _) in submission_styles(ranking).items()},
        tuned=tuned_values(ranking),
        samples=sample_counts(ranking),
        environment=[("command", [(plan.typed, count)]), *environments],
        run_count=count,
    )


def conclusion(ranking: Ranking) -> str:
    """Returns the result in a few sentences, with the workloads whose targets no submission reached."""
    unreached = ranking.unreached
    if not unreached or len(unreached) == len(ranking.results.plan.suite.workloads):
        return order_text(ranking)
    which = "this lowers every score" if len(ranking.order) > 1 else "this lowers its score"
    return f"{order_text(ranking)} No submission reached the target of {', '.join(unreached)}: {which}."


def order_text(ranking: Ranking) -> str:
    """Returns which submission is the best, and whether that may be chance."""
    best, scores, labels = ranking.order[0], ranking.scores[ranking.axis], ranking.labels
    if scores[best].score == 0:
        return "No submission reached the target of any workload."
    first = f"{labels[best]} has the highest score, {scores[best].score:.3f} in {ranking.axis}"
    if len(ranking.order) == 1:
        return f"{first}; alone it is the fastest wherever it reaches a target."
    second = ranking.order[1]
    text = f"{first}, before {labels[second]} with {scores[second].score:.3f}."
    if math.isnan(scores[best].low):
        return f"{text} A single study says nothing about how much that is chance."
    if scores[best].low <= scores[second].high:
        return f"{text} Their 95 % intervals overlap: the order of the two may be chance."
    return text


def tuned_values(ranking: Ranking) -> list[tuple[str, str, str, str, str]]:
    """Returns (workload, submission, study, cost, point) of the best trial of each study."""
    plan, results = ranking.results.plan, ranking.results
    rows = []
    for workload in plan.suite.workloads:
        for name in ranking.order:
            for study, trial in enumerate(results.best_trials(workload, name, ranking.axis)):
                hits = sum(math.isfinite(t.cost[ranking.axis]) for t in results.study(workload, name, study))
                number = f"{hits} of {plan.trials}"
                cost = MISSED if trial is None else cost_text(trial.cost[ranking.axis])
                point = "" if trial is None else " ".join(map(short, trial.point))
                rows.append((workload, f"{ranking.labels[name]}, study {study}", number, cost, point))
    return rows


def short(override: str) -> str:
    """Returns an override for a table; benchmark.json has all digits.

    >>> short("optimizer.lr=0.004430375245218269"), short("optimizer.betas=[0.5,0.999]")
    ('optimizer.lr=0.00443', 'optimizer.betas=[0.5,0.999]')
    """
    key, _, value = override.partition("=")
    return f"{key}={float(value):.4g}" if re.fullmatch(r"\d+\.\d{5,}|\d\S*e-\d+", value) else override


def sample_counts(ranking: Ranking) -> dict[str, str]:
    """Returns how many samples each workload trains on, and on how many it is compared, in words; empty: unknown."""
    counts: dict[str, str] = {}
    for search in ranking.results.plan.searches:
        kind = ranking.results.plan.suite.workloads[search.workload].record[0]
        for trial in ranking.results.study(search.workload, search.submission.name, search.study):
            summary = {} if counts.get(search.workload) else read_summary(search.folder / trial.run)
            if "training_images" in summary:
                trained, compared = summary["training_images"], summary[f"{kind}_images"]
                counts[search.workload] = f"; {trained:,} training and {compared:,} {kind} samples"
    return counts


def environment(ranking: Ranking) -> tuple[list[tuple[str, list[tuple[str, int]]]], int]:
    """Returns (name, values with the number of runs that have each), and the number of runs."""
    environments = run_environments(ranking.results)
    return environment_rows(environments), len(environments)
