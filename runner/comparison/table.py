"""The table of a comparison, on the terminal and in files, with its figures and its report."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from ..reporting.tables import latex, markdown
from ..system.display import plain_table, print_table
from ..system.errors import UserError
from ..system.files import shown, write_text
from .figures.arrays import draw_array_figures
from .figures.curves import draw_comparison_figures
from .figures.fisher import draw_fisher_figures
from .methods import COST, DIVERGED_RULE, Comparison, Method, conclusion_text
from .metrics import AXES
from .report import write_comparison_report
from .significance import Estimate, Verdict

TERMINAL_METRICS = ("final_top1", "final_loss", "train_seconds")  # the files have all
TARGET_AXES = ("steps", "gradients", "seconds")  # of the cost to the target, in the files


def report_comparison(comparison: Comparison, x_axis: str, out: Path, force: bool, console: Console) -> None:
    """Prints the table and writes the files.

    Args:
        comparison: the methods and their runs.
        x_axis: of the curves, one of AXES.
        out: folder of the files.
        force: whether obstacles are printed as warnings.
        console: to print on.

    Raises:
        UserError: there are obstacles, and no `force`; or the files cannot be written.
    """
    for name, reason in comparison.runs.problems:
        console.print(f"left out: {name}: {reason}", markup=False, soft_wrap=True)
    if comparison.obstacles and not force:
        raise UserError(f"compare: {'; '.join(comparison.obstacles)}; --force compares all the same")
    for obstacle in comparison.obstacles:
        console.print(f"warning: {obstacle}", markup=False, soft_wrap=True)
    show_comparison(comparison, x_axis, console)
    try:
        write_files(comparison, x_axis, out)
    except OSError as error:
        raise UserError(f"{shown(out)}: cannot be written ({error.strerror}); give --out DIR") from error
    console.print(f"files: {shown(out)}/ (report.html, table.csv, .md, .tex, curves as SVG and PNG)")


def comparison_table(
    comparison: Comparison, axes: Iterable[str], metrics: Iterable[str]
) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows of text), a row for each method; the tested metric comes first.

    Args:
        comparison: the methods.
        axes: those of AXES for which the cost to reach the target is shown.
        metrics: those that have a column besides the tested one.
    """
    axes = list(axes) if comparison.has_accuracies else []
    tested, known, summaries = comparison.metric, comparison.metrics, comparison.runs.summaries
    others = [name for name in metrics if name != tested and summaries[known[name].column].notna().any()]
    header = ["method", "runs", "diverged", known[tested].label, "95 % interval"]
    header += ["difference", "p (Holm)", "effect (g)", "test", *(known[name].label for name in others)]
    header += [f"{axis} to {comparison.target:g} %" for axis in axes]
    header += ["tuning trials", "tuning gradients"]
    rows = []
    for method in comparison.methods:
        value, form = method.estimates[tested], known[tested].form
        row = [method.name, str(len(method.runs)), str(method.diverged), estimate_text(value, form)]
        row += ["" if math.isnan(value.low) else f"{value.low:{form}} to {value.high:{form}}"]
        row += verdict_cells(method.verdict, form)
        row += [estimate_text(method.estimates[name], known[name].form) for name in others]
        row += [target_text(method, axis) for axis in axes]
        rows.append([*row, str(len(method.trials)), f"{method.trial_gradients:,}"])
    return header, rows


def estimate_text(value: Estimate, form: str) -> str:
    """Returns a mean with its standard deviation."""
    if value.n == 0:
        return ""
    return f"{value.mean:{form}}" if value.n == 1 else f"{value.mean:{form}} ± {value.std:{form}}"


def target_text(method: Method, axis: str) -> str:
    """Returns the cost to reach the target, and the number of runs that did unless all did."""
    form = ",.0f" if axis in ("steps", "samples", "gradients") else ".2f"
    missed = f" ({method.reached} of {len(method.runs)})" if method.reached < len(method.runs) else ""
    return estimate_text(method.to_target[axis], form) + missed


def verdict_cells(verdict: Verdict | None, form: str) -> list[str]:
    """Returns difference, corrected p, effect and kind of a test, as text."""
    if verdict is None:
        return ["", "", "", "baseline"]
    difference = "" if math.isnan(verdict.difference) else f"{verdict.difference:+{form}}"
    if not verdict.has_p_value:
        return [difference, "", "", verdict.kind]
    p = "<0.0001" if verdict.adjusted < 1e-4 else f"{verdict.adjusted:.4f}"
    return [difference, p + (" *" if verdict.is_significant else ""), f"{verdict.effect:+.2f}", verdict.kind]


def show_comparison(comparison: Comparison, x_axis: str, console: Console) -> None:
    """Prints the table, the result of the tests and a legend."""
    header, rows = comparison_table(comparison, [x_axis], TERMINAL_METRICS)
    tuned = any(m.trials for m in comparison.methods)
    columns = [i for i, name in enumerate(header) if tuned or not name.startswith("tuning")]
    table = plain_table(*(header[index] for index in columns))
    for row in rows:
        table.add_row(*(row[index].replace("[", r"\[") for index in columns))
    print_table(console, table)
    if comparison.unnamed:
        keys = ", ".join(key.removeprefix("choices.") for key in comparison.unnamed)
        console.print(f"The methods differ in more than --by says: {keys}.", soft_wrap=True, markup=False)
    console.print(conclusion_text(comparison), soft_wrap=True, markup=False)
    console.print(
        f"mean ± standard deviation over seeds; p: {comparison.metrics[comparison.metric].label} vs."
        f" {comparison.baseline}, corrected by Holm's method, * below 0.05; {COST}.",
        soft_wrap=True,
        markup=False,
    )
    if any(m.diverged for m in comparison.methods):
        console.print(DIVERGED_RULE, soft_wrap=True)


def write_files(comparison: Comparison, x_axis: str, out: Path) -> None:
    """Writes table.csv, table.md, table.tex, the figures and report.html."""
    out.mkdir(parents=True, exist_ok=True)
    table = comparison_table(comparison, dict.fromkeys([x_axis, *TARGET_AXES]), comparison.metrics)
    write_csv(comparison, out / "table.csv")
    write_text(out / "table.md", markdown(*table))
    write_text(out / "table.tex", latex(*table))
    figures = [*draw_comparison_figures(comparison, x_axis, out), *draw_array_figures(comparison, out)]
    figures += draw_fisher_figures(comparison, x_axis, out)
    write_comparison_report(comparison, table, figures, out / "report.html")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Writes all estimates as numbers, a row for each method: mean, std, n, low and high of each metric."""
    parts = ("mean", "std", "n", "low", "high")
    header = ["method", "runs", "diverged", "seeds"]
    header += [f"{name}_{part}" for name in comparison.metrics for part in parts]
    header += ["target", "reached", *(f"{axis}_to_target_{part}" for axis in AXES for part in parts)]
    header += ["tuning_trials", "tuning_gradients", "difference", "p", "p_holm", "effect_g", "test"]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for m in comparison.methods:
            estimates = [getattr(m.estimates[name], part) for name in comparison.metrics for part in parts]
            costs = [getattr(m.to_target[axis], part) for axis in AXES for part in parts]
            v = m.verdict
            verdict = [v.difference, v.p, v.adjusted, v.effect, v.kind] if v else ["", "", "", "", "baseline"]
            start = [m.name, len(m.runs), m.diverged, " ".join(map(str, m.seeds))]
            effort = [len(m.trials), m.trial_gradients]
            row = [*start, *estimates, comparison.target, m.reached, *costs, *effort, *verdict]
            writer.writerow("" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row)
