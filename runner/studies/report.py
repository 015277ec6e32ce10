"""The report of a study as files (report.md, report.html, result.json), and the overview of several studies."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path

from ..reporting.html import render
from ..reporting.tables import markdown
from ..system.files import read_json, shown, write_json, write_text
from .page import Page, PageBuilder
from .plan import SweepState
from .schema import Study
from .text import MARKS, ClaimText, verdict_counts, verdicts_text, with_mark
from .verdicts import NOT_RUN

STUDY_TEMPLATE = "study_report.html.jinja"
RESULT = "result.json"  # beside a report, for the overview


@dataclass(frozen=True)
class StudyResult:
    """The result of a study at one scale.

    Attributes:
        name, title, scale: of the study.
        report: report.md; report.html and result.json lie beside it.
        claims, ours, cells: numbers of the study's claims, of ours and of published values by verdict.
        problems: a line for each part of the study's file that asks for something that does not exist.
        tables: of medians, with the verdicts on claims before them, as Markdown; empty without such tables.
        date: of its last run; empty if there is none.
    """

    name: str
    title: str
    scale: str
    report: Path
    claims: Counter[str]
    ours: Counter[str]
    cells: Counter[str]
    problems: list[str]
    tables: list[str]
    date: str

    @property
    def lines(self) -> list[str]:
        """The last lines that the command prints."""
        verdicts = verdicts_text(self.claims, self.ours, self.cells) or "No claims."
        return [
            *self.tables,
            *(f"warning: {problem}" for problem in self.problems),
            f"{self.name}, scale {self.scale}. {verdicts}",
            f"report: {shown(self.report)}, report.html",
        ]


def write_study_report(study: Study, scale: str, folder: Path, sweeps: Mapping[str, SweepState]) -> StudyResult:
    """Writes the report of a study from the runs of its sweeps: report.md, report.html, figures and result.json.

    Args:
        study: that was run.
        scale: at which.
        folder: of the files; it is made if it is missing.
        sweeps: the state of each sweep, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = PageBuilder(study, scale, folder, sweeps).build()
    write_text(folder / "report.md", as_markdown(page))
    write_text(folder / "report.html", render(STUDY_TEMPLATE, page=page, marks=MARKS))
    dates = page.provenance.dates if page.provenance else []
    result = StudyResult(
        study.name,
        study.title,
        scale,
        folder / "report.md",
        page.claim_counts,
        page.our_counts,
        page.cell_counts,
        page.problems,
        printed(page),
        dates[-1] if dates else "",
    )
    write_json(folder / RESULT, {**vars(result), "report": result.report.name})
    return result


def printed(page: Page) -> list[str]:
    """Returns the tables of medians of a page as the command prints them, and before them the verdicts on claims."""
    if not page.medians:
        return []
    claims = [f"{n}. {with_mark(c.verdict)}: {c.text}" for n, c in page.claims_run if c.verdict != NOT_RUN]
    texts = {reason: items.claims_text for reason, items in page.not_run.items() if items.claims}
    claims += [f"{with_mark(NOT_RUN)} ({reason}): {text}" for reason, text in texts.items()]
    return ["\n".join(claims), *(f"\n{table.title}\n\n{markdown(table.header, table.rows)}" for table in page.medians)]


def read_result(folder: Path) -> StudyResult | None:
    """Returns the result of the study whose report lies in a folder; None without a report."""
    content = read_json(folder / RESULT)
    if not content:
        return None
    counts = {name: Counter(content.get(name, {})) for name in ("claims", "ours", "cells")}
    return StudyResult(**{**content, **counts, "report": folder / content["report"]})


def as_markdown(page: Page) -> str:
    """Returns a page in Markdown, without empty sections."""
    study = page.study
    parts = [
        f"# {study.title}",
        study.source,
        f"Scale **{page.scale}**: {study.scales[page.scale].about}.",
        f"**{page.summary}**" if page.summary else "",
        "\n".join(f"> Warning: {problem}" for problem in page.problems),
    ]
    if page.claims:
        items = [claim_item(number, claim) for number, claim in page.claims_run]
        parts += ["## Claims", "\n".join([*items, *starmap(not_run_item, page.claims_not_run.items())])]
    if page.tables:
        parts.append("## Published values and ours" if page.has_references else "## Tables")
    for table in [table for table in page.tables if table.rows]:
        left = [*range(table.labels), len(table.header) - 1] if "verdict" in table.header else range(table.labels)
        parts += [f"### {table.title}", " ".join(table.notes), markdown(table.header, table.rows, left)]
    parts.append("\n".join(not_run_item(table.not_run, table.title) for table in page.tables if not table.rows))
    if page.claims or page.tables:
        parts.append(page.method)
    if page.figures:
        parts += ["## Figures", *(f"![{figure.title}]({figure.png.name})" for figure in page.figures)]
    if page.not_run:
        parts += ["## Not run", "\n".join(f"- {line}" for line in page.reasons)]
    parts += provenance_parts(page)
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def claim_item(number: int, claim: ClaimText) -> str:
    """Returns a claim as an item of a list, which is not numbered itself: numbers of claims have gaps."""
    reason = f" ({claim.reason})" if claim.reason else ""
    lines = [f"- **{number}. {with_mark(claim.verdict)}**{reason}: {claim.text} ({claim.paper}).", claim.results]
    return "\n  ".join(filter(None, lines))


def not_run_item(reason: str, what: str) -> str:
    """Returns what was not run for a reason as an item of a list."""
    return f"- **{with_mark(NOT_RUN)}** ({reason}): {what}."


def provenance_parts(page: Page) -> list[str]:
    """Returns the last section: commands, sweeps, tuning effort and environment."""
    provenance = page.provenance
    if provenance is None:
        return []
    parts = ["## Provenance"]
    if provenance.dates:
        parts += [f"Run {' to '.join(provenance.dates)}.", markdown(*provenance.sweeps)]
    parts.append("```sh\n" + "\n".join(provenance.commands) + "\n```")
    if provenance.tuning[1]:
        parts += ["Tuned learning rates:", markdown(*provenance.tuning, left=(0, 1, 2))]
    parts += [f"Warning: {line}." for line in provenance.warnings]
    total = provenance.run_count
    lines = [
        f"- {name}: " + "; ".join(f"{value} ({n} of {total} runs)" if n < total else str(value) for value, n in values)
        for name, values in provenance.environment
    ]
    return [*parts, "\n".join(lines)]


def write_overview(folders: Iterable[Path], path: Path) -> None:
    """Writes a table in Markdown of the studies with a report in these folders, one row a study."""
    results = [result for result in map(read_result, folders) if result is not None]

    rows = [
        [
            f"[{result.name}]({os.path.relpath(result.report, path.parent)})",
            result.title,
            result.scale,
            *(verdict_counts(counts) or "–" for counts in (result.claims, result.ours, result.cells)),
            result.date or "–",
        ]
        for result in results
    ]
    header = ["study", "about", "scale", "claims", "questions of ours", "published values", "date"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, markdown(header, rows, left=range(len(header))))
