"""The report of a study as files, report.md and report.html, and the overview over several."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..reporting.html import data_uri, render
from ..reporting.tables import markdown
from ..system.files import read_json, shown, write_json, write_text
from .page import Author, Page
from .plan import SweepState
from .schema import Study
from .text import MARKS, ClaimText, marked, verdicts_text
from .verdicts import NOT_REPRODUCED, NOT_RUN, REPRODUCED

TEMPLATE = "study_report.html.jinja"
RESULT = "result.json"  # beside a report, for the overview


@dataclass(frozen=True)
class StudyResult:
    """What came out of a study at one scale.

    Attributes:
        name, title, scale: which.
        report: report.md; report.html and result.json lie beside it.
        claims, cells: how many of each verdict.
        problems: what its file asks for in vain, a line each.
        date: of its last run; empty where there is none.
    """

    name: str
    title: str
    scale: str
    report: Path
    claims: Counter[str]
    cells: Counter[str]
    problems: list[str]
    date: str

    @property
    def lines(self) -> list[str]:
        """What a command prints at its end."""
        told = verdicts_text(self.claims, self.cells) or "It claims nothing."
        return [
            *(f"careful: {problem}" for problem in self.problems),
            f"{self.name}, scale {self.scale}. {told}",
            f"report: {shown(self.report)}, report.html",
        ]


def write_study_report(study: Study, scale: str, folder: Path, sweeps: Mapping[str, SweepState]) -> StudyResult:
    """Writes report.md, report.html, the pictures and figures.json of a study, from what its sweeps left.

    Args:
        study: which.
        scale: at which.
        folder: where the files go; it is made where it is missing.
        sweeps: what became of them, by name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = Author(study, scale, folder, sweeps).write()
    write_text(folder / "report.md", as_markdown(page))
    pictures = [(picture, data_uri(picture.svg)) for picture in page.pictures]
    write_text(folder / "report.html", render(TEMPLATE, page=page, pictures=pictures, marks=MARKS))
    dates = page.circumstances.dates if page.circumstances else []
    result = StudyResult(
        study.name,
        study.title,
        scale,
        folder / "report.md",
        page.claim_counts,
        page.cell_counts,
        page.problems,
        dates[-1] if dates else "",
    )
    write_json(folder / RESULT, {**vars(result), "report": result.report.name})
    return result


def read_result(folder: Path) -> StudyResult | None:
    """Returns what came out of the study whose report lies in a folder; None where there is none."""
    found = read_json(folder / RESULT)
    if not found:
        return None
    counts = {name: Counter(found[name]) for name in ("claims", "cells")}
    return StudyResult(**{**found, **counts, "report": folder / found["report"]})


def as_markdown(page: Page) -> str:
    """Returns a page in Markdown; a section that would be empty is left out."""
    study = page.study
    parts = [
        f"# {study.title}",
        study.source,
        f"Scale **{page.scale}**: {study.scales[page.scale].about}.",
        f"**{page.sentence}**" if page.sentence else "",
        "\n".join(f"> Careful: {problem}" for problem in page.problems),
    ]
    if page.claims:
        parts += ["## Claims", "\n".join(map(claim_item, range(1, len(page.claims) + 1), page.claims))]
    if page.tables:
        parts.append("## Published figures beside ours")
    for table in page.tables:
        left = [*range(table.labels), len(table.header) - 1] if "verdict" in table.header else range(table.labels)
        parts += [f"### {table.title}", " ".join(table.notes)]
        parts.append(markdown(table.header, table.rows, left) if table.rows else "")
    if page.claims or page.tables:
        parts.append(page.how)
    if page.pictures:
        parts += ["## Pictures", *(f"![{picture.title}]({picture.png.name})" for picture in page.pictures)]
    if page.not_run:
        parts += ["## Not run, and why", "\n".join(f"- {line}" for line in page.reasons)]
    parts += circumstances_parts(page)
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def claim_item(number: int, claim: ClaimText) -> str:
    """Returns a claim as an item of a list."""
    reason = f" ({claim.reason})" if claim.reason else ""
    lines = [f"{number}. **{marked(claim.verdict)}**{reason}: {claim.text} ({claim.paper}).", claim.figures]
    return "\n   ".join(filter(None, lines))


def circumstances_parts(page: Page) -> list[str]:
    """Returns the last section: commands, sweeps, tuning and environment."""
    found = page.circumstances
    if found is None:
        return []
    parts = ["## Circumstances"]
    if found.dates:
        parts += [f"Run {' to '.join(found.dates)}.", markdown(*found.sweeps)]
    parts.append("```sh\n" + "\n".join(found.commands) + "\n```")
    if found.efforts[1]:
        parts += ["Learning rates were searched for:", markdown(*found.efforts, left=(0, 1, 2))]
    parts += [f"Careful: {line}." for line in found.careful]
    lines = [
        f"- {what}: "
        + "; ".join(f"{v} ({n} of {found.run_count} runs)" if n < found.run_count else str(v) for v, n in values)
        for what, values in found.environment
    ]
    return [*parts, "\n".join(lines)]


def write_overview(folders: Iterable[Path], path: Path) -> None:
    """Writes a Markdown table over the studies with reports in these folders, a row each."""
    results = [result for result in map(read_result, folders) if result is not None]

    def reproduced(counts: Counter[str]) -> str:
        checked = counts[REPRODUCED] + counts[NOT_REPRODUCED]
        return f"{counts[REPRODUCED]} of {checked}" if checked else "none checked"

    def not_run(result: StudyResult) -> str:
        numbers = {"claim": result.claims[NOT_RUN], "figure": result.cells[NOT_RUN]}
        parts = [f"{n} {what}{'s' if n > 1 else ''}" for what, n in numbers.items() if n]
        return ", ".join(parts) or "0"

    rows = [
        [
            f"[{result.name}]({os.path.relpath(result.report, path.parent)})",
            result.title,
            result.scale,
            reproduced(result.claims),
            reproduced(result.cells),
            not_run(result),
            result.date or "–",
        ]
        for result in results
    ]
    header = ["study", "about", "scale", "claims reproduced", "published figures reproduced", "not run", "date"]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, markdown(header, rows, left=(0, 1, 2)))
