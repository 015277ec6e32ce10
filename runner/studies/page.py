"""The content of a study's report: verdicts, tables, figures and provenance."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..comparison.methods import DIVERGED_RULE
from ..comparison.metrics import SECONDS_RULE
from ..comparison.significance import LEVEL, MIN_SEEDS
from ..reporting.style import SavedFigure
from ..system.errors import UserError
from .checkpoint_metrics import ResultCache
from .figures import draw_study_figure, draw_table
from .metrics import MetricReader, MetricResult, NoMatchingRun, is_in_seconds
from .plan import SweepState
from .provenance import Provenance, read_provenance
from .schema import Claim, MetricSpec, Study, StudyTable
from .text import Cell, ClaimText, TableText, claim_text, reference_text, table_text, verdicts_text
from .verdicts import NOT_COMPARABLE, NOT_RUN, Judgement, judge_cell, judge_claim

CACHE = "checkpoint_metrics.json"
METHOD = (
    "± is half the 95 % confidence interval of the mean over n seeds. A claim about an order is reproduced if the"
    f" difference has the claimed sign and p < {LEVEL:g} (two-sided t-test, paired if the seeds are the same, else"
    " Welch's; not corrected for the number of claims), contradicted if it has the opposite sign and"
    f" p < {LEVEL:g}, and else undecided, as with fewer than {MIN_SEEDS} seeds. A claim that two values are equal is"
    " reproduced if the 95 % confidence interval of their difference lies within the stated bound, contradicted if it"
    " lies beyond, and else undecided. A published value is reproduced if it lies in our confidence interval, widened"
    " by the study's tolerance and by half of the value's own confidence interval, and else contradicted."
)
RANKS = "A run that never reaches a level counts as later than all others, and the t-test is then made on ranks."
MEDIANS = (
    "Medians are over seeds, with the lowest and the highest value in parentheses; without them, of one run. A run that"
    " misses the level counts as infinite, and a ratio to such a median is below any. A learning rate that is named"
    " is the one with the lowest median of steps, over the seeds that all rates have; without one, all rates miss it."
    " Claims of at most so many times compare medians, without a test."
)
INVALID = "the study's file asks for something that does not exist; see the warnings"


@dataclass
class NotRun:
    """Items without a result for the same reason: numbers of claims, published values by table, figures."""

    claims: list[str] = field(default_factory=list)
    cells: Counter[str] = field(default_factory=Counter)
    figures: list[str] = field(default_factory=list)

    @property
    def claims_text(self) -> str:
        """The claims in words; empty without any."""
        return f"claim{'s' if len(self.claims) > 1 else ''} {', '.join(self.claims)}" if self.claims else ""

    @property
    def text(self) -> str:
        """All of them in words.

        >>> NotRun(["1", "3"], Counter(["table 2", "table 2"]), ["figure 5"]).text
        'claims 1, 3; table 2 (2 values); plot of figure 5'
        """
        parts = [f"{name} ({n} value{'s' if n > 1 else ''})" for name, n in self.cells.items()]
        if self.figures:
            parts.append(f"plot{'s' if len(self.figures) > 1 else ''} of {', '.join(self.figures)}")
        return "; ".join(filter(None, (self.claims_text, *parts)))


@dataclass
class Page:
    """The content of a report.

    Attributes:
        study: that was run.
        scale: at which.
        problems: a line for each part of the study's file that asks for something that does not exist.
        claims: with verdicts.
        tables: of published values and ours.
        figures: their files.
        not_run: items without a result, by reason.
        method: how verdicts are reached.
        provenance: of the runs.
        claim_counts, our_counts: numbers of the study's claims and of ours by verdict.
        cell_counts: numbers of published values by verdict.
    """

    study: Study
    scale: str
    problems: list[str] = field(default_factory=list)
    claims: list[ClaimText] = field(default_factory=list)
    tables: list[TableText] = field(default_factory=list)
    figures: list[SavedFigure] = field(default_factory=list)
    not_run: dict[str, NotRun] = field(default_factory=dict)
    method: str = METHOD
    provenance: Provenance | None = None
    claim_counts: Counter[str] = field(default_factory=Counter)
    our_counts: Counter[str] = field(default_factory=Counter)
    cell_counts: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> list[str]:
        """A line for each reason, with the items that have no result."""
        return [f"{reason}: {items.text}" for reason, items in self.not_run.items()]

    @property
    def claims_run(self) -> list[tuple[int, ClaimText]]:
        """The claims that were run, with their numbers."""
        return [(number, claim) for number, claim in enumerate(self.claims, start=1) if claim.was_run]

    @property
    def claims_not_run(self) -> dict[str, str]:
        """The other claims with their numbers, in one line for each reason."""
        by_reason: dict[str, list[str]] = {}
        for number, (text, claim) in enumerate(zip(self.claims, self.study.claims, strict=True), start=1):
            if not text.was_run:
                by_reason.setdefault(text.reason, []).append(f"{number}. {claim.text}")
        return {reason: "; ".join(claims) for reason, claims in by_reason.items()}

    @property
    def has_references(self) -> bool:
        """Whether a table has published values."""
        return any(table.reference for table in self.study.tables)

    @property
    def medians(self) -> list[TableText]:
        """The tables of medians that have rows."""
        pairs = zip(self.study.tables, self.tables, strict=True)
        return [text for table, text in pairs if table.statistic == "median" and text.rows]

    @property
    def summary(self) -> str:
        """How many claims and published values have which verdict."""
        return verdicts_text(self.claim_counts, self.our_counts, self.cell_counts)


class PageBuilder:
    """Builds the page of a study, and writes its figures.

    Args:
        study: that was run.
        scale: at which.
        folder: of the report; figures and results from checkpoints are written there.
        sweeps: the state of each sweep, by name.
    """

    def __init__(self, study: Study, scale: str, folder: Path, sweeps: Mapping[str, SweepState]):
        self.folder = folder
        self.reader = MetricReader(study, scale, sweeps, ResultCache(folder / CACHE))
        self.page = Page(study, scale)
        self._by_name: dict[str, MetricResult] = {}
        self._results: list[MetricResult] = []
        self._has_seconds = False

    def build(self) -> Page:
        """Returns the page."""
        page = self.page
        for number, claim in enumerate(page.study.claims, start=1):
            self.add_claim(claim, str(number))
        for number, table in enumerate(page.study.tables):
            self.add_table(table, f"tables[{number}]")
        self.add_figures()
        self.reader.cache.prune()
        if any(result.diverged for result in self._results):
            page.method += f" {DIVERGED_RULE}"
        if not all(result.is_finite for result in self._results):
            page.method += f" {RANKS}"
        if self._has_seconds:
            page.method += f" {SECONDS_RULE}"
        if page.medians:
            page.method += f" {MEDIANS}"
        page.provenance = read_provenance(page.study, page.scale, self.folder, self.reader)
        return page

    def add_claim(self, claim: Claim, number: str) -> None:
        """Judges a claim."""
        if self.page.scale in claim.scales:
            results = [self.metric(name) for name in claim.of]
            judgement = judge_claim(claim, results)
        else:
            results = []
            judgement = Judgement(NOT_RUN, only_at("checked", claim.scales))
        self.page.claims.append(claim_text(claim, results, judgement))
        counts = self.page.our_counts if claim.ours else self.page.claim_counts
        counts[judgement.verdict] += 1
        if judgement.verdict == NOT_RUN:
            self.not_run(judgement.reason).claims.append(number)

    def metric(self, name: str | float) -> MetricResult:
        """Returns the result of a metric of the study by its name; of a number, that number."""
        if not isinstance(name, str):
            return MetricResult({0: float(name)}, is_constant=True)
        if name not in self._by_name:
            self._by_name[name] = self.read(f"values.{name}", self.page.study.values[name])
        return self._by_name[name]

    def read(self, key: str, metric: MetricSpec, expected: bool = True) -> MetricResult:
        """Returns the result of a metric; one that does not exist is unavailable, and a problem if it is expected.

        Args:
            key: of the metric in the study's file.
            metric: to be read.
            expected: whether the runs of this scale should have it.
        """
        try:
            result = self.reader.read(metric)
        except UserError as error:
            if isinstance(error, NoMatchingRun) and not expected:
                return MetricResult({}, unavailable=f"no such run at scale {self.page.scale}")
            self.add_problem(key, error)
            result = MetricResult({}, unavailable=INVALID)
        self._results.append(result)
        self._has_seconds |= bool(result.values) and is_in_seconds(metric)
        return result

    def add_problem(self, key: str, error: UserError) -> None:
        """Adds a problem of the study's file, unless another key has the same."""
        if not any(line.endswith(f": {error}") for line in self.page.problems):
            self.page.problems.append(f"{self.page.study.name}.yaml: {key}: {error}")

    def add_table(self, table: StudyTable, key: str) -> None:
        """Judges the cells of a table."""
        cells, expected = [], self.page.scale in table.comparable
        for column in table.columns:
            for row in table.rows:
                result = self.read(f"{key}, {row}, {column}", table.cell(row, column), expected)
                published, judgement = "–", None
                if column in table.reference.get(row, {}):
                    published, judgement = self.judge(table, row, column, result, key)
                    self.page.cell_counts[judgement.verdict] += 1
                    if judgement.verdict == NOT_RUN:
                        self.not_run(judgement.reason).cells[table.paper] += 1
                cells.append(Cell(row, column, result, published, judgement))
        self.page.tables.append(table_text(self.page.study, self.page.scale, table, cells))
        if table.plot is not None and self.page.tables[-1].rows:
            results = {(cell.row, cell.column): cell.result for cell in cells}
            self.page.figures.append(draw_table(table, results, f"figure-{key.strip('tables[]')}-table", self.folder))

    def judge(self, table: StudyTable, row: str, column: str, result: MetricResult, key: str) -> tuple[str, Judgement]:
        """Returns the published value of a cell as text, and the verdict on it.

        Args:
            table: has the published value.
            row: label of the cell.
            column: label of the cell.
            result: ours.
            key: of the table in the study's file.
        """
        reference = table.reference[row][column]
        try:
            published = reference_text(reference, table.digits)
        except UserError as error:
            self.add_problem(f"{key}.reference.{row}.{column}", error)
            return "–", Judgement(NOT_RUN, INVALID)
        if not result.unavailable and self.page.scale not in table.comparable:
            return published, Judgement(NOT_COMPARABLE)
        return published, judge_cell(result, reference, table.tolerance)

    def add_figures(self) -> None:
        """Draws the figures, and removes those of an earlier report."""
        for number, figure in enumerate(self.page.study.figures):
            drawn: SavedFigure | str = only_at("drawn", figure.scales)
            if self.page.scale in figure.scales:
                try:
                    drawn = draw_study_figure(figure, number + 1, self.reader, self.folder)
                except UserError as error:
                    self.add_problem(f"figures[{number}]", error)
                    drawn = INVALID
            if isinstance(drawn, SavedFigure):
                self.page.figures.append(drawn)
            else:
                self.not_run(drawn).figures.append(figure.paper)
        files = {path.name for figure in self.page.figures for path in (figure.svg, figure.png, figure.pdf)}
        for path in self.folder.glob("figure-*"):
            if path.name not in files:
                path.unlink()

    def not_run(self, reason: str) -> NotRun:
        """Returns the items without a result for a reason."""
        return self.page.not_run.setdefault(reason, NotRun())


def only_at(action: str, scales: list[str]) -> str:
    """Returns that something is done at other scales.

    >>> only_at("checked", ["small", "paper"])
    'checked at scale small and paper only'
    """
    return f"{action} at scale {' and '.join(scales)} only"
