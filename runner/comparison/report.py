"""A comparison as one HTML file that needs no other file."""

from pathlib import Path
from typing import Any

import pandas as pd

from ..reporting.html import data_uri, render
from ..reporting.style import SavedFigure
from ..system.files import write_text
from .differences import configs_as_text
from .figures.curves import method_styles
from .methods import COST, DIVERGED_RULE, Comparison, conclusion_text
from .significance import LEVEL

ENVIRONMENT = ("commit", "dirty", "device", "gpu", "cuda", "cpu", "cores", "threads", "platform")  # and versions


def write_comparison_report(
    comparison: Comparison, table: tuple[list[str], list[list[str]]], figures: list[SavedFigure], path: Path
) -> None:
    """Writes the report.

    Args:
        comparison: the methods and their runs.
        table: (header, rows of text); the first column holds the methods' names.
        figures: these go into the file themselves.
        path: of the file.
    """
    header, rows = table
    runs = [run for method in comparison.methods for run in method.runs]
    text = render(
        "report.html.jinja",
        comparison=comparison,
        conclusion=conclusion_text(comparison),
        metric=comparison.metrics[comparison.metric].label,
        header=header,
        rows=rows,
        colours={name: colour for name, (colour, _) in method_styles(comparison.methods).items()},
        figures=[(figure, data_uri(figure.svg)) for figure in figures],
        rule=DIVERGED_RULE,
        cost=COST,
        level=LEVEL,
        run_count=len(runs),
        differing=[key.removeprefix("choices.") for key in (*comparison.differing, *comparison.unnamed)],
        values=differing_values(comparison),
        environment=environment_rows(comparison.runs.environments.reindex(runs)),
    )
    write_text(path, text)


def differing_values(comparison: Comparison) -> list[tuple[str, list[str], str]]:
    """Returns (name, its value of each differing key, seeds) of the methods."""
    text = configs_as_text(comparison.runs.configs)
    return [
        (
            method.name,
            [text.at[method.runs[0], key] for key in (*comparison.differing, *comparison.unnamed)],
            ", ".join(map(str, method.seeds)),
        )
        for method in comparison.methods
    ]


def environment_rows(environments: pd.DataFrame) -> list[tuple[str, list[tuple[Any, int]]]]:
    """Returns (name, its values, each with the number of runs that have it); what no run recorded is left out."""
    versions = [column for column in environments if column.startswith("versions.")]
    rows = []
    for column in [*versions, *(key for key in ENVIRONMENT if key in environments)]:
        counts = environments[column].dropna().map(str).value_counts()
        if len(counts):
            rows.append((column.removeprefix("versions."), [(value, int(count)) for value, count in counts.items()]))
    return rows
