"""`trainopt compare RUN|SWEEP …`: from run folders to a conclusion."""

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from ..reporting.tables import latex, markdown
from ..system.display import plain_table
from ..system.errors import UserError
from ..system.files import shown
from .fisher_pictures import draw_fisher_pictures
from .methods import AXES, COST, METRICS, RULE, Comparison, Method, conclusion
from .pictures import draw_pictures
from .report import write_report
from .significance import Estimate, Verdict

FORMS = {"final_loss": ".4f", "lowest_loss": ".4f", "train_seconds": ".1f"}  # others have two digits
SHOWN = ("final_top1", "final_loss", "train_seconds")  # on the terminal; the files have all
WAYS = ("steps", "gradients", "seconds")  # to the target, in the files


def conclude(comparison: Comparison, against: str, out: Path, force: bool, console: Console) -> None:
    """Prints the table and write the files; UserError where the methods should not be compared, unless by force."""
    for name, reason in comparison.runs.problems:
        console.print(f"left out: {name}: {reason}", markup=False, soft_wrap=True)
    if comparison.obstacles and not force:
        raise UserError(f"compare: {'; '.join(comparison.obstacles)}; --force compares all the same")
    for obstacle in comparison.obstacles:
        console.print(f"careful: {obstacle}", markup=False, soft_wrap=True)
    show(comparison, against, console)
    try:
        write_files(comparison, against, out)
    except OSError as error:
        raise UserError(f"{shown(out)}: cannot be written ({error.strerror}); give --out DIR") from error
    console.print(f"files: {shown(out)}/ (report.html, table.csv, .md, .tex, curves as SVG and PNG)")


def table_of(comparison: Comparison, axes: Iterable[str], metrics: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Returns (header, rows of text): a row a method, what the tests are about first.

    Args:
        comparison: the methods.
        axes: those of AXES on which the way to the target is shown.
        metrics: those of METRICS that have a column beside the one that was tested.
    """
    axes = list(axes) if comparison.has_accuracies else []
    tested = comparison.metric
    there = comparison.runs.summaries
    others = [name for name in metrics if name != tested and there[METRICS[name][0]].notna().any()]
    header = ["method", "runs", "diverged", METRICS[tested][1], "95 % interval"]
    header += ["difference", "p (Holm)", "effect (g)", "test", *(METRICS[name][1] for name in others)]
    header += [f"{axis} to {comparison.target:g} %" for axis in axes]
    header += ["tuning trials", "tuning gradients"]
    rows = []
    for method in comparison.methods:
        figure, form = method.figures[tested], FORMS.get(tested, ".2f")
        row = [method.name, str(len(method.runs)), str(method.diverged), estimate_text(figure, form)]
        row += ["" if math.isnan(figure.low) else f"{figure.low:{form}} to {figure.high:{form}}"]
        row += verdict_cells(method.verdict, form)
        row += [estimate_text(method.figures[name], FORMS.get(name, ".2f")) for name in others]
        row += [way_text(method, axis) for axis in axes]
        rows.append([*row, str(len(method.trials)), f"{method.trial_gradients:,}"])
    return header, rows


def estimate_text(value: Estimate, form: str) -> str:
    """Returns a mean with its standard deviation."""
    if value.n == 0:
        return ""
    return f"{value.mean:{form}}" if value.n == 1 else f"{value.mean:{form}} ± {value.std:{form}}"


def way_text(method: Method, against: str) -> str:
    """Returns what it took to reach the target, and in how many of the runs where not in all."""
    form = ",.0f" if against in ("steps", "samples", "gradients") else ".2f"
    missed = f" ({method.reached} of {len(method.runs)})" if method.reached < len(method.runs) else ""
    return estimate_text(method.to_target[against], form) + missed


def verdict_cells(verdict: Verdict | None, form: str) -> list[str]:
    """Returns difference, corrected p, effect and kind of a test, as text."""
    if verdict is None:
        return ["", "", "", "baseline"]
    difference = "" if math.isnan(verdict.difference) else f"{verdict.difference:+{form}}"
    if not verdict.says_something:
        return [difference, "", "", verdict.kind]
    p = "<0.0001" if verdict.adjusted < 1e-4 else f"{verdict.adjusted:.4f}"
    return [difference, p + (" *" if verdict.is_significant else ""), f"{verdict.effect:+.2f}", verdict.kind]


def show(comparison: Comparison, against: str, console: Console) -> None:
    """Prints the table and what it means."""
    header, rows = table_of(comparison, [against], SHOWN)
    without_tuning = not any(m.trials for m in comparison.methods)
    kept = [i for i, name in enumerate(header) if not (without_tuning and name.startswith("tuning"))]
    table = plain_table(*(header[index] for index in kept))
    for row in rows:
        table.add_row(*(row[index].replace("[", r"\[") for index in kept))
    console.print(table)
    console.print(conclusion(comparison), soft_wrap=True, markup=False)
    console.print(
        f"mean ± standard deviation over seeds; p: {METRICS[comparison.metric][1]} against {comparison.baseline},"
        f" corrected by Holm's method, * below 0.05; {COST}.",
        soft_wrap=True,
        markup=False,
    )
    if any(m.diverged for m in comparison.methods):
        console.print(RULE, soft_wrap=True)


def write_files(comparison: Comparison, against: str, out: Path) -> None:
    """Writes table.csv, table.md, table.tex, the pictures and report.html."""
    out.mkdir(parents=True, exist_ok=True)
    table = table_of(comparison, dict.fromkeys([against, *WAYS]), METRICS)
    write_csv(comparison, out / "table.csv")
    (out / "table.md").write_text(markdown(*table))
    (out / "table.tex").write_text(latex(*table))
    pictures = [*draw_pictures(comparison, against, out), *draw_fisher_pictures(comparison, against, out)]
    write_report(comparison, table, pictures, out / "report.html")


def write_csv(comparison: Comparison, path: Path) -> None:
    """Writes all figures as numbers, a row a method: mean, std, n, low and high of each."""
    parts = ("mean", "std", "n", "low", "high")
    header = ["method", "runs", "diverged", "seeds"]
    header += [f"{name}_{part}" for name in METRICS for part in parts]
    header += ["target", "reached", *(f"{axis}_to_target_{part}" for axis in AXES for part in parts)]
    header += ["tuning_trials", "tuning_gradients", "difference", "p", "p_holm", "effect_g", "test"]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for m in comparison.methods:
            estimates = [getattr(m.figures[name], part) for name in METRICS for part in parts]
            ways = [getattr(m.to_target[axis], part) for axis in AXES for part in parts]
            v = m.verdict
            verdict = [v.difference, v.p, v.adjusted, v.effect, v.kind] if v else ["", "", "", "", "baseline"]
            start = [m.name, len(m.runs), m.diverged, " ".join(map(str, m.seeds))]
            effort = [len(m.trials), m.trial_gradients]
            row = [*start, *estimates, comparison.target, m.reached, *ways, *effort, *verdict]
            writer.writerow("" if isinstance(cell, float) and math.isnan(cell) else cell for cell in row)
