"""A comparison as one HTML file that needs no other file."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..reporting.html import render
from ..reporting.method_styles import method_styles
from ..reporting.style import SavedFigure
from ..system.files import write_text
from .differences import configs_as_text
from .figures.target import bars_text, target_note
from .methods import COST, DIVERGED_RULE, TIMED_RULE, Comparison
from .metrics import SECONDS_RULE
from .setting import horizon_text, last_change_text, one_sample_text, seeds_text, sets_text, setting_text
from .significance import LEVEL
from .tables.details import all_runs, all_trials, differences_from_the_best
from .tables.text import EQUAL_P, MEANING, conclusion_text, has_equal_p, untested_text
from .tuning.tables import boundary_note, one_search_text, selection_text, tuned_text, tuning_tables

ENVIRONMENT = (
    *("commit", "dirty", "device", "gpu", "cuda", "cpu", "cores", "memory_bytes", "threads", "platform"),
)  # and versions
SHARED_KEYS = (
    *("choices.model", "model.", "choices.data", "data.limit", "data.validation", "choices.augmentation"),
    *("choices.objective", "choices.schedule", "choices.averaging", "choices.batching", "batching.size"),
    *("gradient.", "duration", "evaluate_every", "precision"),
)  # keys, and the beginnings of keys, that a reader asks for first
COUNTS = {
    "training_images": "training samples",
    "validation_images": "validation samples",
    "test_images": "test samples",
    "parameters": "parameters",
}  # of summaries
COMMANDS = 4  # of the runs, at most, that are shown
UNSET = ("", "null", "false", "0.0", "[]")


class TableSection(NamedTuple):
    """A part of the table: a title, a header and rows of text, whose first column holds the methods' labels."""

    title: str
    header: list[str]
    rows: list[list[str]]


def write_comparison_report(
    comparison: Comparison, table: list[TableSection], x_axis: str, figures: list[SavedFigure], path: Path
) -> None:
    """Writes the report.

    Args:
        comparison: the methods and their runs.
        table: its parts.
        x_axis: of the curves, one of AXES.
        figures: these go into the file themselves.
        path: of the file.
    """
    styles = method_styles(method.name for method in comparison.methods)
    runs = [run for method in comparison.methods for run in method.runs]
    environments = comparison.runs.environments.reindex(runs)
    text = render(
        "report.html.jinja",
        comparison=comparison,
        conclusion=conclusion_text(comparison),
        setting=setting_text(comparison),
        seeds=seeds_text(comparison),
        sets=sets_text(comparison),
        selection=selection_text(comparison),
        horizon=horizon_text(comparison),
        last_change=last_change_text(comparison),
        sample=one_sample_text(comparison),
        meaning=MEANING,
        untested=untested_text(comparison),
        equal_p=EQUAL_P.format(p="p") if has_equal_p(comparison) else "",
        metric=comparison.metrics[comparison.metric].label,
        table=[section for section in table if len(section.header) > 1],
        best=differences_from_the_best(comparison),
        tuning=tuning_tables(comparison),
        details=[part for part in (all_runs(comparison), all_trials(comparison)) if part.rows],
        one_search=one_search_text(comparison),
        tuned=tuned_text(comparison),
        boundary=boundary_note(comparison),
        searches=search_figures(comparison),
        target=target_note(comparison, x_axis) if comparison.target is not None else "",
        bars=bars_text(comparison, x_axis),
        colours={m.label: styles[m.name][0] for m in comparison.methods},
        figures=figures,
        rule=" ".join([DIVERGED_RULE, TIMED_RULE] if comparison.is_timed else [DIVERGED_RULE]),
        cost=COST,
        seconds=SECONDS_RULE,
        level=LEVEL,
        run_count=len(runs),
        differing=[key.removeprefix("choices.") for key in (*comparison.differing, *comparison.unnamed)],
        values=differing_values(comparison),
        shared=shared_settings(comparison),
        is_best_on_test=set(comparison.runs.summaries["best_on"].dropna()) == {"test"},
        is_best_on_validation=set(comparison.runs.summaries["best_on"].dropna()) == {"validation"},
        environment=[*command_rows(environments), *environment_rows(environments)],
    )
    write_text(path, text)


def search_figures(comparison: Comparison) -> list[tuple[str, list[tuple[str, Path, Path | None]]]]:
    """Returns (label, (title, PNG, PDF if it exists) of each figure of its search); searches may share a figure."""
    labels: dict[tuple[tuple[str, Path], ...], list[str]] = {}
    for method in comparison.methods:
        search = comparison.searches.get(method.name)
        figures = () if search is None else tuple((t, path) for t, path in search.figures.items() if path.is_file())
        if figures:
            labels.setdefault(figures, []).append(method.label)
    return [(", ".join(names), [with_pdf(*figure) for figure in figures]) for figures, names in labels.items()]


def with_pdf(title: str, picture: Path) -> tuple[str, Path, Path | None]:
    """Returns (title, picture, the PDF beside it; None of a search of an earlier version, which has none)."""
    pdf = picture.with_suffix(".pdf")
    return title, picture, pdf if pdf.is_file() else None


def differing_values(comparison: Comparison) -> list[tuple[str, list[str], str]]:
    """Returns (label, its value of each differing key, seeds) of the methods."""
    text = configs_as_text(comparison.runs.configs)
    return [
        (
            method.label,
            [text.at[method.runs[0], key] for key in (*comparison.differing, *comparison.unnamed)],
            ", ".join(map(str, method.seeds)),
        )
        for method in comparison.methods
    ]


def shared_settings(comparison: Comparison) -> list[tuple[str, str]]:
    """Returns (name, value) of what all runs have in common: network, data, schedule, batch size, duration."""
    text = configs_as_text(comparison.runs.configs)
    same = [str(key) for key in text if text[key].nunique() == 1 and text[key].iloc[0] not in UNSET]
    rows = []
    for start in SHARED_KEYS:
        keys = [key for key in same if key == start or (start.endswith(".") and key.startswith(start))]
        rows += [(key.removeprefix("choices."), text[key].iloc[0]) for key in keys if not key.endswith("_target_")]
    summaries = comparison.runs.summaries
    for key, name in COUNTS.items():
        values = summaries[key].dropna().unique() if key in summaries else []
        rows += [(name, f"{int(values[0]):,}")] if len(values) == 1 else []
    return rows


def environment_rows(environments: pd.DataFrame) -> list[tuple[str, list[tuple[Any, int]]]]:
    """Returns (name, its values, each with the number of runs that have it); what no run recorded is left out."""
    versions = [column for column in environments if column.startswith("versions.")]
    rows = []
    for column in [*versions, *(key for key in ENVIRONMENT if key in environments)]:
        counts = environments[column].dropna().map(str).value_counts()
        if len(counts):
            rows.append((column.removeprefix("versions."), [(value, int(count)) for value, count in counts.items()]))
    return rows


def command_rows(environments: pd.DataFrame) -> list[tuple[str, list[tuple[Any, int]]]]:
    """Returns a row with the command lines, as of `environment_rows`; none where there are too many to be read."""
    commands = environments.get("command", pd.Series(dtype=object)).dropna().map(shlex.join).value_counts()
    return [("command", [(c, int(count)) for c, count in commands.items()])] if 0 < len(commands) <= COMMANDS else []
