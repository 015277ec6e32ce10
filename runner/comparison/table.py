"""The table of a comparison, on the terminal and in files, with its figures and its report."""

import csv
import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from ..reporting.figure_style import STYLE
from ..reporting.tables import label_of, markdown
from ..system.display import plain_table, print_table
from ..system.errors import UserError
from ..system.files import plural, shown, write_text
from .code_versions import environment_text
from .figures.arrays import draw_array_figures
from .figures.curves import draw_comparison_figures
from .figures.fisher import draw_fisher_figures
from .figures.target import target_note
from .methods import COST, DIVERGED_RULE, TIMED_RULE, Comparison
from .metrics import AXES, SECONDS_RULE
from .paper_table import check_columns, paper_table
from .report import TableSection, write_comparison_report
from .setting import horizon_text, last_change_text, one_sample_text, seeds_text, sets_text, setting_text
from .tables.details import differences_from_the_best
from .tables.noted_table import as_latex, as_markdown
from .tables.text import (
    DIFFERENCE_INTERVAL,
    EFFECT_INTERVAL,
    MEAN_INTERVAL,
    MEANING,
    TEST_HEADER,
    conclusion_text,
    deviation_text,
    estimate_text,
    forced_text,
    interval_text,
    mean_text,
    target_text,
    untested_text,
    verdict_cells,
)
from .tuning.expected_best import draw_expected_best
from .tuning.tables import boundary_note, one_search_text, selection_text, tuned_text, tuning_tables

TERMINAL_METRICS = ("final_top1", "final_loss", "train_seconds")  # the files have all
REPORT, FORMATS = "report.html", (".html", ".csv", ".md", ".tex", ".pdf", ".svg", ".png")
VERDICT_COLUMNS = {
    "difference": "difference",
    "low": "difference_low",
    "high": "difference_high",
    "p": "p",
    "adjusted": "p_holm",
    "effect": "effect_g",
    "effect_low": "effect_g_low",
    "effect_high": "effect_g_high",
}  # of table.csv, by the attributes of a verdict
TARGET_AXES = ("steps", "gradients", "seconds")  # of the cost to the target, in the files


def report_comparison(
    comparison: Comparison, x_axis: str, out: Path, force: bool, console: Console, columns: Sequence[str] = ()
) -> None:
    """Prints the table and writes the files, in place of those of an earlier comparison.

    Args:
        comparison: the methods and their runs.
        x_axis: of the curves, one of AXES.
        out: folder of the files.
        force: whether obstacles are printed as warnings.
        console: to print on.
        columns: of table.tex; none: the usual ones.

    Raises:
        UserError: there are obstacles, and no `force`; or there is no such column; or the files cannot be written.
    """
    for name, reason in comparison.runs.problems:
        console.print(f"left out: {name}: {reason}", markup=False, soft_wrap=True)
    if comparison.obstacles and not force:
        hint = leave_out_text(comparison.runs.configs["duration"].map(str))
        raise UserError(f"compare: {'; '.join(comparison.obstacles)}{hint}; --force compares nevertheless")
    check_columns(comparison, columns)
    for obstacle in comparison.obstacles:
        console.print(f"warning: {obstacle}", markup=False, soft_wrap=True)
    show_comparison(comparison, x_axis, console)
    try:
        earlier = files_in(out)
        write_files(comparison, x_axis, out, columns)
        remaining = sorted(name for name, changed in files_in(out).items() if earlier.get(name) == changed)
    except OSError as error:
        raise UserError(f"{shown(out)}: cannot be written ({error.strerror}); give --out DIR") from error
    files = "report.html, table.csv, .md, .tex, figures as PDF, SVG and PNG"
    console.print(f"files: {shown(out)}/ ({files})", markup=False, soft_wrap=True)
    if earlier:
        text = f"{shown(out)}/ held an earlier comparison, whose files were replaced; --out DIR keeps both"
        left = f"; of it remain {', '.join(remaining)}" if remaining else ""
        console.print(f"{text}{left}", markup=False, soft_wrap=True)


def leave_out_text(durations: pd.Series) -> str:
    """Returns how runs are left out that have another duration than most; empty where there are none.

    Args:
        durations: by the folder of the run.

    >>> leave_out_text(pd.Series({"s/a": "2epochs", "s/b": "2epochs", "s/c": "1epochs"}))
    '; to leave out s/c, give the folders of the other 2 runs alone, as SWEEP/RUN SWEEP/RUN'
    """
    usual = durations.mode()
    others = list(durations.index[durations != usual.iloc[0]])
    if not others:
        return ""
    names = " ".join([*map(shlex.quote, others[:3]), *["…"] * (len(others) > 3)])
    rest = plural(len(durations) - len(others), "run")
    return f"; to leave out {names}, give the folders of the other {rest} alone, as SWEEP/RUN SWEEP/RUN"


def files_in(folder: Path) -> dict[str, int]:
    """Returns the files in a folder that may be of a comparison, with the times of their last change."""
    paths = [path for path in folder.glob("*.*") if path.suffix in FORMATS] if (folder / REPORT).is_file() else []
    return {path.name: path.stat().st_mtime_ns for path in paths}


def comparison_table(
    comparison: Comparison, axes: Iterable[str], metrics: Iterable[str]
) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows of text), a row for each method; the tested metric comes first.

    Args:
        comparison: the methods.
        axes: those of AXES for which the cost to reach the target is shown.
        metrics: those that have a column besides the tested one.
    """
    sections = table_sections(comparison, axes, metrics)
    header = [sections[0].header[0], *(name for section in sections for name in section.header[1:])]
    lines = zip(*(section.rows for section in sections), strict=True)
    return header, [[parts[0][0], *(cell for part in parts for cell in part[1:])] for parts in lines]


def table_sections(comparison: Comparison, axes: Iterable[str], metrics: Iterable[str]) -> list[TableSection]:
    """Returns the table in parts that fit on a page: results with their test, further metrics, and the cost.

    Args:
        comparison: the methods.
        axes: those of AXES for which the cost to reach the target is shown.
        metrics: those that have a column besides the tested one.
    """
    axes = [] if comparison.target is None else list(axes)
    tested, known, recorded = comparison.metric, comparison.metrics, comparison.recorded
    others = [name for name in metrics if name != tested and name in recorded]
    results = ["method", "runs", "diverged", known[tested].label, "SD", MEAN_INTERVAL]
    results += TEST_HEADER
    costs = ["method", *(f"{axis} to {comparison.target}" for axis in axes), "tuning trials", "tuning gradients"]
    sections = [
        TableSection("Results", results, []),
        TableSection("Further metrics", ["method", *(known[name].label for name in others)], []),
        TableSection("Cost", costs, []),
    ]
    for method in comparison.methods:
        value, form = method.estimates[tested], known[tested].form
        row = [method.label, str(len(method.runs)), str(method.diverged)]
        row += [mean_text(value, form), deviation_text(value, form), interval_text(value, form)]
        sections[0].rows.append([*row, *verdict_cells(method.verdict, form)])
        values = [estimate_text(method.estimates[name], known[name].form) for name in others]
        sections[1].rows.append([method.label, *values])
        effort = [str(method.trial_count), f"{method.trial_gradients:,}"]
        sections[2].rows.append([method.label, *(target_text(method, axis) for axis in axes), *effort])
    return sections


def show_comparison(comparison: Comparison, x_axis: str, console: Console) -> None:
    """Prints the table, the result of the tests and a legend."""
    header, rows = comparison_table(comparison, [x_axis], TERMINAL_METRICS)
    tuned = any(m.trials for m in comparison.methods)
    left_out = {DIFFERENCE_INTERVAL, EFFECT_INTERVAL} | (set() if tuned else {"tuning trials", "tuning gradients"})
    if len(comparison.methods) == 1:
        left_out |= set(TEST_HEADER)
    columns = [i for i, name in enumerate(header) if name not in left_out]
    table = plain_table(*(header[index] for index in columns))
    for row in rows:
        table.add_row(*(row[index].replace("[", r"\[") for index in columns))
    print_table(console, table)
    if comparison.unnamed:
        keys = ", ".join(key.removeprefix("choices.") for key in comparison.unnamed)
        console.print(f"The methods differ in more than --by says: {keys}.", soft_wrap=True, markup=False)
    headline = f"{conclusion_text(comparison)} {selection_text(comparison)}".strip()
    console.print(headline, soft_wrap=True, markup=False)
    environments = comparison.runs.environments.reindex(run for m in comparison.methods for run in m.runs)
    for text in filter(None, (seeds_text(comparison), tuned_text(comparison), environment_text(environments))):
        console.print(text, soft_wrap=True, markup=False)
    p_value = (
        f"p: {comparison.metrics[comparison.metric].label} vs. {comparison.baseline_label}, corrected by Holm's method"
    )
    has_test = any(m.verdict and m.verdict.has_p_value for m in comparison.methods)
    meanings = [MEANING, *([f"{p_value}, * below 0.05"] if has_test else []), COST]
    console.print(f"{'; '.join(meanings)}.", soft_wrap=True, markup=False)
    if has_test and (sample := one_sample_text(comparison)):
        console.print(sample, soft_wrap=True, markup=False)
    if untested := untested_text(comparison):
        console.print(untested, soft_wrap=True, markup=False)
    if comparison.target is not None:
        console.print(f"{target_note(comparison, x_axis)}.", soft_wrap=True, markup=False)
    if any(m.diverged for m in comparison.methods):
        console.print(DIVERGED_RULE, soft_wrap=True)
    if x_axis == "seconds" or comparison.metric == "train_seconds":
        console.print(SECONDS_RULE, soft_wrap=True, markup=False)
    if comparison.is_timed:
        console.print(TIMED_RULE, soft_wrap=True, markup=False)


def write_files(comparison: Comparison, x_axis: str, out: Path, columns: Sequence[str]) -> None:
    """Writes table.csv, table.md, table.tex (these columns; none: the usual ones), the figures and report.html."""
    out.mkdir(parents=True, exist_ok=True)
    axes = list(dict.fromkeys([x_axis, *TARGET_AXES]))
    write_csv(comparison, out / "table.csv")
    further = [differences_from_the_best(comparison)] + (tuning_tables(comparison) if comparison.searches else [])
    further = [table for table in further if table.rows]
    texts = (setting_text, seeds_text, sets_text, horizon_text, last_change_text)
    parts = (forced_text, *texts, one_search_text, tuned_text, selection_text, boundary_note)
    text = " ".join(filter(None, (make(comparison) for make in parts)))
    table = markdown(*comparison_table(comparison, axes, comparison.metrics))
    notes = " ".join(
        filter(None, (f"{MEANING}.", one_sample_text(comparison), untested_text(comparison), SECONDS_RULE))
    )
    write_text(out / "table.md", f"{text}\n\n{table}\n{notes}\n{as_markdown(further)}")
    width, label = STYLE.get().table_width, label_of(out)
    tex = paper_table(comparison, x_axis, width, columns, label)
    write_text(out / "table.tex", tex + as_latex(further, width, label))
    figures = [*draw_comparison_figures(comparison, x_axis, out), *draw_array_figures(comparison, out)]
    figures += [*draw_fisher_figures(comparison, x_axis, out), *draw_expected_best(comparison, out)]
    sections = table_sections(comparison, axes, comparison.metrics)
    write_comparison_report(comparison, sections, x_axis, figures, out / REPORT)


def write_csv(comparison: Comparison, path: Path) -> None:
    """Writes all estimates as numbers, a row for each method: mean, std, n, low and high of each recorded metric.

    Columns without a value in any row are left out.
    """
    parts = ("mean", "std", "n", "low", "high")
    header = ["method", "label", "runs", "diverged", "seeds"]
    header += [f"{name}_{part}" for name in comparison.recorded for part in parts]
    header += ["target", "target_metric", "reached", *(f"{axis}_to_target_{part}" for axis in AXES for part in parts)]
    header += ["tuning_trials", "tuning_gradients", "tested", *VERDICT_COLUMNS.values(), "test"]
    rows = []
    for m in comparison.methods:
        estimates = [getattr(m.estimates[name], part) for name in comparison.recorded for part in parts]
        costs = [getattr(m.to_target[axis], part) for axis in AXES for part in parts]
        v = m.verdict
        verdict = [getattr(v, part, "") for part in VERDICT_COLUMNS] + [v.kind if v else "baseline"]
        start = [m.name, m.label, len(m.runs), m.diverged, " ".join(map(str, m.seeds))]
        effort = [m.trial_count, m.trial_gradients]
        target = ["", ""] if comparison.target is None else [comparison.target.value, comparison.target.metric]
        row = [*start, *estimates, *target, m.reached, *costs, *effort, comparison.metric, *verdict]
        rows.append(["" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row])
    columns = [(name, *cells) for name, *cells in zip(header, *rows, strict=True) if any(c != "" for c in cells)]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(zip(*columns, strict=True))
