"""A study's results and verdicts as text, the same for its report in Markdown and in HTML."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..comparison.significance import Estimate
from .metrics import MetricResult
from .schema import Claim, Study, StudyTable
from .verdicts import (
    CONTRADICTED,
    NOT_COMPARABLE,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    VERDICTS,
    Judgement,
    parse_reference,
)

MARKS = {REPRODUCED: "✓", CONTRADICTED: "✗", UNDECIDED: "?", NOT_COMPARABLE: "≠", NOT_RUN: "○"}
BELOW_ANY = "below any (the divisor missed the level)"  # in place of a ratio
MOST_DIGITS = 4  # after the decimal point


@dataclass(frozen=True)
class ClaimText:
    """A claim as text.

    Attributes:
        text: the statement.
        paper: where the study says it.
        verdict: one of VERDICTS.
        reason: of the verdict; may be empty.
        results: our values; empty where there are none.
    """

    text: str
    paper: str
    verdict: str
    reason: str
    results: str

    @property
    def was_run(self) -> bool:
        """Whether it was run, also if only in part."""
        return self.verdict != NOT_RUN or bool(self.results)


@dataclass(frozen=True)
class TableText:
    """A table of published values and ours.

    Attributes:
        title: with the number of the published table.
        notes: sentences above the table.
        header: a name for each column.
        labels: number of columns, from the left, that label a row.
        rows: of cells; none if none of it was run.
        not_run: why there are no rows.
    """

    title: str
    notes: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    labels: int = 1
    rows: list[list[str]] = field(default_factory=list)
    not_run: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a study's table; without a published value `published` is a dash and `judgement` None."""

    row: str
    column: str
    result: MetricResult
    published: str
    judgement: Judgement | None


def with_mark(verdict: str) -> str:
    """Returns a verdict with its mark, which distinguishes it without colour.

    >>> with_mark("contradicted")
    '✗ contradicted'
    """
    return f"{MARKS[verdict]} {verdict}"


def claim_text(claim: Claim, results: Sequence[MetricResult], judgement: Judgement) -> ClaimText:
    """Returns a claim with our results as text; `results` are empty where it is not checked at this scale."""
    statement = f"{claim.text} (a question of ours)" if claim.ours else claim.text
    if claim.order == "at_most":
        return ClaimText(statement, claim.paper, judgement.verdict, judgement.reason, pairs_text(claim, results))
    named = [(name, result) for name, result in zip(claim.of, results, strict=False) if result.values]
    measured = [(name, result) for name, result in named if not result.is_constant]
    digits = digits_for([result.estimate for _, result in measured])
    text = "; ".join(f"{name}: {result_text(result, digits)}" for name, result in measured)
    if measured:
        text += counts_text([len(result.values) for _, result in measured])
        text += "".join(f" vs. {name:g}" for name, result in named if result.is_constant)
    d = judgement.difference
    if d is not None and not math.isnan(d.mean) and not any(result.is_below_any for result in results):
        between = "" if len(results) == 2 else f" of {claim.of[-1]} and {claim.of[0]}"
        interval = f" ({number_text(d.low, digits, '+')} to {number_text(d.high, digits, '+')})"
        has_interval = d.has_test and not math.isnan(d.low)
        text += f"; difference{between}: {number_text(d.mean, digits, '+')}{interval if has_interval else ''}"
    if d is not None and d.has_test:
        text += f", {p_text(d.p)} ({d.test})"
    return ClaimText(statement, claim.paper, judgement.verdict, judgement.reason, text)


def pairs_text(claim: Claim, results: Sequence[MetricResult]) -> str:
    """Returns the medians of each pair of a claim; empty where one has no values."""
    if not results or not all(result.values for result in results):
        return ""
    pairs = zip(claim.of[::2], results[::2], results[1::2], strict=True)
    return "; ".join(f"{name}: {median_text(a, None)} vs. {median_text(b, None)}" for name, a, b in pairs)


def table_text(study: Study, scale: str, table: StudyTable, cells: Sequence[Cell]) -> TableText:
    """Returns a table as text, without columns that are the same in all rows."""
    title = f"{table.paper[:1].upper()}{table.paper[1:]}: {table.title}"
    judgements = [cell.judgement for cell in cells if cell.judgement is not None]
    if not any(cell.result.values for cell in cells):
        reasons = "; ".join(cell.result.unavailable for cell in cells if cell.result.unavailable)
        return TableText(title, not_run="; ".join(dict.fromkeys(reasons.split("; "))))
    if table.statistic == "median":
        return medians_text(title, table, cells)
    counts = {len(cell.result.values) for cell in cells if cell.result.values}
    none_comparable = {judgement.verdict for judgement in judgements} == {NOT_COMPARABLE}
    columns = {
        "column": (len(table.columns) > 1, ""),
        "row": (True, ""),
        "published": (bool(judgements), "published"),
        "ours": (True, "ours"),
        "n": (len(counts) > 1, "n"),
        "verdict": (bool(judgements) and not none_comparable, "verdict"),
    }
    rows, previous, labels = [], None, table.labels.get(scale, {})
    for cell in cells:
        content = {
            "column": labels.get(cell.column, cell.column) if cell.column != previous else "",
            "row": labels.get(cell.row, cell.row),
            "published": cell.published,
            "ours": result_text(cell.result, table.digits) if cell.result.values else "–",
            "n": str(len(cell.result.values)),
            "verdict": with_mark(cell.judgement.verdict) if cell.judgement else "–",
        }
        if cell.judgement and cell.judgement.verdict in (CONTRADICTED, UNDECIDED) and cell.judgement.reason:
            content["verdict"] += f" ({cell.judgement.reason})"
        previous = cell.column
        rows.append([content[key] for key, (is_shown, _) in columns.items() if is_shown])
    header = [name for is_shown, name in columns.values() if is_shown]
    notes = [f"n = {counts.pop()} each."] if len(counts) == 1 else []
    notes += table_notes(table, judgements, table.differs.get(scale) or study.scales[scale].about)
    return TableText(title, notes, header, 1 + (len(table.columns) > 1), rows)


def medians_text(title: str, table: StudyTable, cells: Sequence[Cell]) -> TableText:
    """Returns a table of medians as text: its rows and columns, without those that have no values."""
    results = {(cell.row, cell.column): cell.result for cell in cells}
    columns = [column for column in table.columns if any(results[row, column].values for row in table.rows)]
    rows = []
    for label in table.rows:
        of_row = [results[label, column] for column in columns]
        chosen = {result.chosen for result in of_row if result.values}
        texts = [median_text(result, table.digits) if result.values else "–" for result in of_row]
        if len(chosen) == 1:
            label = ", ".join(filter(None, (label, *chosen)))  # noqa: PLW2901
        else:
            texts = [", ".join(filter(None, (text, r.chosen))) for text, r in zip(texts, of_row, strict=True)]
        if chosen:
            rows.append([label, *texts])
    partial = dict.fromkeys(result.unavailable for result in results.values() if result.values and result.unavailable)
    return TableText(title, [f"Incomplete: {'; '.join(partial)}."] if partial else [], ["", *columns], 1, rows)


def median_text(result: MetricResult, digits: int | None) -> str:
    """Returns the median over seeds with the range of the runs that reach the level, and how many miss it.

    >>> median_text(MetricResult({0: 1.0, 1: 2.0, 2: math.inf}), 0), median_text(MetricResult({0: 31.66}), None)
    ('2 (1 to 2); 1 of 3 missed', '31.7')
    >>> median_text(MetricResult({0: 1.0, 1: math.inf, 2: math.inf}), 0), median_text(MetricResult({0: math.inf}), 0)
    ('missed (1 to 1); 2 of 3 missed', 'missed')
    """

    if result.is_below_any:
        return BELOW_ANY

    def number(value: float) -> str:
        return f"{value:.3g}" if digits is None and abs(value) < 100 else number_text(value, digits or 0)

    finite = [value for value in result.values.values() if math.isfinite(value)]
    text = number(result.median) if math.isfinite(result.median) else "missed"
    if finite and len(result.values) > 1:
        text += f" ({number(min(finite))} to {number(max(finite))})"
    missed = len(result.values) - len(finite)
    return f"{text}; {missed} of {len(result.values)} missed" if missed and finite else text


def table_notes(table: StudyTable, judgements: Sequence[Judgement], difference: str) -> list[str]:
    """Returns the notes above a table that explain its verdicts.

    Args:
        table: its tolerance.
        judgements: of its cells.
        difference: between this scale and the published runs, for verdicts NOT_COMPARABLE.
    """
    notes, verdicts = [], {judgement.verdict for judgement in judgements}
    if table.tolerance and verdicts & {REPRODUCED, CONTRADICTED, UNDECIDED}:
        notes.append(f"Tolerance: {table.tolerance:g}.")
    if NOT_COMPARABLE in verdicts:
        notes.append(f"{with_mark(NOT_COMPARABLE).capitalize()} with the published values: {difference}.")
    if NOT_RUN in verdicts:
        reasons = dict.fromkeys(judgement.reason for judgement in judgements if judgement.verdict == NOT_RUN)
        notes.append(f"{with_mark(NOT_RUN).capitalize()}: {'; '.join(reasons)}.")
    return notes


def result_text(result: MetricResult, digits: int | None) -> str:
    """Returns the mean with half its 95 % confidence interval, or how many runs reach the level; and how many diverged.

    >>> result_text(MetricResult({0: 1.0, 1: 2.0, 2: 3.0}), 2)
    '2.00 ± 2.48'
    """
    if result.is_below_any:
        return BELOW_ANY
    diverged = f", {result.diverged} diverged" if result.diverged else ""
    if not result.is_finite:
        return f"reached in {result.finite_count} of {len(result.values)} runs{diverged}"
    e = result.estimate
    half_width = "" if e.n == 1 else f" ± {number_text(e.high - e.mean, digits)}"
    return number_text(e.mean, digits) + half_width + diverged


def number_text(value: float, digits: int | None, sign: str = "") -> str:
    """Returns a number with so many digits after the decimal point; None: with four significant digits.

    >>> number_text(12345.678, 1), number_text(12345.678, None), number_text(0.000123, None), number_text(2.0, 1, "+")
    ('12,345.7', '12,346', '0.000123', '+2.0')
    """
    if digits is None:
        return f"{value:{sign},.0f}" if abs(value) >= 1e4 else f"{value:{sign}.4g}"
    return f"{value:{sign},.{digits}f}"


def reference_text(reference: float | list[float], digits: int | None) -> str:
    """Returns a published mean, with its standard deviation if that was published.

    >>> reference_text([73.1, 0.2], 1)
    '73.1 (sd 0.2)'
    """
    mean, std, _ = parse_reference(reference)
    return number_text(mean, digits) + ("" if std is None else f" (sd {number_text(std, digits)})")


def counts_text(counts: Sequence[int]) -> str:
    """Returns the numbers of values behind means.

    >>> counts_text([5, 5]), counts_text([5, 3])
    (' (n = 5 each)', ' (n = 5, 3)')
    """
    if len(set(counts)) == 1:
        return f" (n = {counts[0]}{' each' if len(counts) > 1 else ''})"
    return f" (n = {', '.join(map(str, counts))})"


def digits_for(estimates: Sequence[Estimate]) -> int | None:
    """Returns the number of digits after the decimal point: two significant ones of the smallest confidence interval.

    None, for four significant digits of each number, where there is no interval or one so small that other numbers
    would have too many digits.

    >>> digits_for([Estimate(97.2, 0.3, 5, 96.8, 97.6)]), digits_for([Estimate(1e-5, 0.0, 5, 0.9e-5, 1.1e-5)])
    (2, None)
    """
    half_widths = [e.high - e.mean for e in estimates if e.n > 1 and e.high - e.mean > 0]
    digits = max(0, 1 - math.floor(math.log10(min(half_widths)))) if half_widths else MOST_DIGITS + 1
    return digits if digits <= MOST_DIGITS else None


def p_text(p: float) -> str:
    """Returns a p-value as text.

    >>> p_text(0.01234), p_text(1e-7)
    ('p = 0.0123', 'p < 0.0001')
    """
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def verdict_counts(counts: dict[str, int]) -> str:
    """Returns how many claims or published values have which verdict; empty without any.

    >>> verdict_counts({"not run": 1, "reproduced": 2, "contradicted": 0})
    '2 reproduced, 1 not run'
    """
    order = dict.fromkeys((*VERDICTS, *counts))  # a report of an earlier version has others
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order if counts.get(verdict))


def verdicts_text(claims: dict[str, int], ours: dict[str, int], cells: dict[str, int]) -> str:
    """Returns how many claims, claims of ours and published values have which verdict."""
    counts = {"Claims": claims, "Questions of ours": ours, "Published values": cells}
    return " ".join(f"{what}: {verdict_counts(number)}." for what, number in counts.items() if any(number.values()))
