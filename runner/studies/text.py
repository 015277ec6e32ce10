"""A study's figures and verdicts as text, the same for its report in Markdown and in HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..comparison.significance import Estimate
from .metrics import Found
from .schema import Claim, Study, StudyTable
from .verdicts import NOT_COMPARABLE, NOT_REPRODUCED, NOT_RUN, REPRODUCED, VERDICTS, Outcome, as_reference

MARKS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", NOT_COMPARABLE: "≠", NOT_RUN: "○"}
MOST_DIGITS = 4  # after the point


@dataclass(frozen=True)
class ClaimText:
    """A claim: the statement and where it stands, the verdict with its reason, and our figures."""

    text: str
    paper: str
    verdict: str
    reason: str
    figures: str


@dataclass(frozen=True)
class TableText:
    """A table of published figures beside ours; `rows` without cells where nothing of it was run.

    Attributes:
        title: with the published table's number.
        notes: sentences above it.
        header: of its columns.
        labels: how many of these, from the left, say which cell it is.
        rows: as text.
    """

    title: str
    notes: list[str]
    header: list[str] = field(default_factory=list)
    labels: int = 1
    rows: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One of a table; where nothing was published, `published` is a dash and `outcome` None."""

    row: str
    column: str
    found: Found
    published: str
    outcome: Outcome | None


def marked(verdict: str) -> str:
    """Returns a verdict with its mark, which tells it from the others without colour.

    >>> marked("not reproduced")
    '✗ not reproduced'
    """
    return f"{MARKS[verdict]} {verdict}"


def claim_text(claim: Claim, figures: Sequence[Found], outcome: Outcome) -> ClaimText:
    """Returns a claim with what we found, in words; without figures where it is not for this scale."""
    there = [(name, found) for name, found in zip(claim.of, figures, strict=False) if found.values]
    own = [(name, found) for name, found in there if not found.is_number]
    digits = digits_for([found.estimate for _, found in own])
    told = "; ".join(f"{name}: {figure_text(found, digits)}" for name, found in own)
    if own:
        told += counts_text([len(found.values) for _, found in own])
        told += "".join(f" against {name:g}" for name, found in there if found.is_number)
    d = outcome.difference
    if d is not None and not math.isnan(d.mean):
        between = "" if len(figures) == 2 else f" of {claim.of[-1]} and {claim.of[0]}"
        span = f" ({number(d.low, digits, '+')} to {number(d.high, digits, '+')})"
        is_spanned = d.was_tested and not math.isnan(d.low)
        told += f"; difference{between}: {number(d.mean, digits, '+')}{span if is_spanned else ''}"
    if d is not None and d.was_tested:
        told += f", {p_text(d.p)} ({d.test})"
    return ClaimText(claim.text, claim.paper, outcome.verdict, outcome.reason, told)


def table_text(study: Study, scale: str, table: StudyTable, cells: Sequence[Cell]) -> TableText:
    """Returns a table, with those columns that say something."""
    title = f"{table.paper[:1].upper()}{table.paper[1:]}: {table.title}"
    judged = [cell.outcome for cell in cells if cell.outcome is not None]
    if not any(cell.found.values for cell in cells):
        lacks = dict.fromkeys(cell.found.lacks for cell in cells if cell.found.lacks)
        return TableText(title, [f"{marked(NOT_RUN).capitalize()}: {'; '.join(lacks)}."])
    counts = {len(cell.found.values) for cell in cells if cell.found.values}
    incomparable = {outcome.verdict for outcome in judged} == {NOT_COMPARABLE}
    columns = {
        "column": (len(table.columns) > 1, ""),
        "row": (True, ""),
        "published": (bool(judged), "published"),
        "ours": (True, "ours"),
        "n": (len(counts) > 1, "n"),
        "verdict": (bool(judged) and not incomparable, "verdict"),
    }
    rows, before = [], None
    for cell in cells:
        content = {
            "column": cell.column if cell.column != before else "",
            "row": cell.row,
            "published": cell.published,
            "ours": figure_text(cell.found, table.digits) if cell.found.values else "–",
            "n": str(len(cell.found.values)),
            "verdict": marked(cell.outcome.verdict) if cell.outcome else "–",
        }
        if cell.outcome and cell.outcome.verdict == NOT_REPRODUCED and cell.outcome.reason:
            content["verdict"] += f" ({cell.outcome.reason})"
        before = cell.column
        rows.append([content[key] for key, (is_shown, _) in columns.items() if is_shown])
    header = [name for is_shown, name in columns.values() if is_shown]
    notes = [f"n = {counts.pop()} each."] if len(counts) == 1 else []
    notes += notes_on(table, judged, table.differs.get(scale) or study.scales[scale].about)
    return TableText(title, notes, header, 1 + (len(table.columns) > 1), rows)


def notes_on(table: StudyTable, judged: Sequence[Outcome], difference: str) -> list[str]:
    """Returns what is to be said above a table of the verdicts in it.

    Args:
        table: its tolerance.
        judged: the verdicts.
        difference: why figures of this scale are not comparable, where they are not.
    """
    notes, verdicts = [], {outcome.verdict for outcome in judged}
    if table.tolerance and verdicts & {REPRODUCED, NOT_REPRODUCED}:
        notes.append(f"Tolerance: {table.tolerance:g}.")
    if NOT_COMPARABLE in verdicts:
        notes.append(f"{marked(NOT_COMPARABLE).capitalize()} with what was published: {difference}.")
    if NOT_RUN in verdicts:
        reasons = dict.fromkeys(outcome.reason for outcome in judged if outcome.verdict == NOT_RUN)
        notes.append(f"{marked(NOT_RUN).capitalize()}: {'; '.join(reasons)}.")
    return notes


def figure_text(found: Found, digits: int | None) -> str:
    """Returns a figure with half its 95 % interval, and what is to be said of its runs.

    >>> figure_text(Found({0: 1.0, 1: 2.0, 2: 3.0}), 2)
    '2.00 ± 2.48'
    """
    more = f", {found.diverged} diverged" if found.diverged else ""
    if not found.is_finite:
        return f"reached in {found.reached} of {len(found.values)} runs{more}"
    e = found.estimate
    half = "" if e.n == 1 else f" ± {number(e.high - e.mean, digits)}"
    return number(e.mean, digits) + half + more


def number(value: float, digits: int | None, sign: str = "") -> str:
    """Returns a number with so many digits after the point; None: with four that count.

    >>> number(12345.678, 1), number(12345.678, None), number(0.000123, None), number(2.0, 1, "+")
    ('12,345.7', '12,346', '0.000123', '+2.0')
    """
    if digits is None:
        return f"{value:{sign},.0f}" if abs(value) >= 1e4 else f"{value:{sign}.4g}"
    return f"{value:{sign},.{digits}f}"


def reference_text(reference: float | list[float], digits: int) -> str:
    """Returns a published number, with its standard deviation where that was published.

    >>> reference_text([73.1, 0.2], 1)
    '73.1 (sd 0.2)'
    """
    published, std, _ = as_reference(reference)
    return number(published, digits) + ("" if std is None else f" (sd {number(std, digits)})")


def counts_text(counts: Sequence[int]) -> str:
    """Returns of how many values means are.

    >>> counts_text([5, 5]), counts_text([5, 3])
    (' (n = 5 each)', ' (n = 5, 3)')
    """
    if len(set(counts)) == 1:
        return f" (n = {counts[0]}{' each' if len(counts) > 1 else ''})"
    return f" (n = {', '.join(map(str, counts))})"


def digits_for(found: Sequence[Estimate]) -> int | None:
    """Returns how many digits after the point say something: two of the smallest interval.

    None, that is four digits of each number, where there is no interval, or one so small that others would have
    too many.

    >>> digits_for([Estimate(97.2, 0.3, 5, 96.8, 97.6)]), digits_for([Estimate(1e-5, 0.0, 5, 0.9e-5, 1.1e-5)])
    (2, None)
    """
    halves = [e.high - e.mean for e in found if e.n > 1 and e.high - e.mean > 0]
    digits = max(0, 1 - math.floor(math.log10(min(halves)))) if halves else MOST_DIGITS + 1
    return digits if digits <= MOST_DIGITS else None


def p_text(p: float) -> str:
    """Returns a p.

    >>> p_text(0.01234), p_text(1e-7)
    ('p = 0.0123', 'p < 0.0001')
    """
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def counted(what: str, counts: dict[str, int]) -> str:
    """Returns what became of claims or figures; empty where there are none.

    >>> counted("Claims", {"reproduced": 2, "not run": 1})
    'Claims: 2 reproduced, 1 not run.'
    """
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts.get(verdict)]
    return f"{what}: {', '.join(parts)}." if parts else ""


def verdicts_text(claims: dict[str, int], cells: dict[str, int]) -> str:
    """Returns how many claims and published figures have which verdict."""
    return " ".join(filter(None, (counted("Claims", claims), counted("Published figures", cells))))
