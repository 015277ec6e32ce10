"""What stands in the report of a study, as text and pictures."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..comparison.methods import DIVERGED_RULE
from ..comparison.significance import LEVEL, MIN_SEEDS
from ..reporting.style import SavedFigure
from ..system.errors import UserError
from .checkpoint_metrics import Kept
from .metrics import Figures, Found, NoSuchRun
from .pictures import draw_study_picture
from .plan import SweepState
from .provenance import Circumstances, circumstances
from .schema import Claim, MetricSpec, Study, StudyTable
from .text import Cell, ClaimText, TableText, claim_text, reference_text, table_text, verdicts_text
from .verdicts import NOT_COMPARABLE, NOT_RUN, Outcome, judge_cell, judge_claim

KEPT = "figures.json"
HOW = (
    "± is half the 95 % interval of the mean over n values, one a seed. A claim of an order is reproduced where"
    f" the difference has its sign and p < {LEVEL:g} (two-sided, paired where the seeds agree, else Welch's, not"
    f" corrected for the number of claims); with fewer than {MIN_SEEDS} seeds the sign decides. A published figure is"
    " reproduced where it lies within our interval, widened by the study's tolerance and by its own interval."
)
IN_VAIN = "the study's file asks for what is not there, as said above"
LATE = "A run that never got there counts as later than all others, and tests are then on ranks."


@dataclass
class NotRun:
    """What a reason keeps from a verdict: numbers of claims, published figures by their table, pictures."""

    claims: list[str] = field(default_factory=list)
    cells: Counter[str] = field(default_factory=Counter)
    pictures: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All of it in words.

        >>> NotRun(["1", "3"], Counter(["table 2", "table 2"]), ["figure 5"]).text
        'claims 1, 3; table 2 (2 figures); picture of figure 5'
        """
        parts = [f"{name} ({n} figure{'s' if n > 1 else ''})" for name, n in self.cells.items()]
        if self.claims:
            parts.insert(0, f"claim{'s' if len(self.claims) > 1 else ''} {', '.join(self.claims)}")
        if self.pictures:
            parts.append(f"picture{'s' if len(self.pictures) > 1 else ''} of {', '.join(self.pictures)}")
        return "; ".join(parts)


@dataclass
class Page:
    """A report.

    Attributes:
        study: of which.
        scale: at which.
        problems: what the study's file asks for in vain, a line each.
        claims: with verdicts.
        tables: published figures beside ours.
        pictures: on disk.
        not_run: reasons, each with what it keeps from a verdict.
        how: how to read the verdicts.
        circumstances: of the runs.
        claim_counts, cell_counts: how many of each verdict.
    """

    study: Study
    scale: str
    problems: list[str] = field(default_factory=list)
    claims: list[ClaimText] = field(default_factory=list)
    tables: list[TableText] = field(default_factory=list)
    pictures: list[SavedFigure] = field(default_factory=list)
    not_run: dict[str, NotRun] = field(default_factory=dict)
    how: str = HOW
    circumstances: Circumstances | None = None
    claim_counts: Counter[str] = field(default_factory=Counter)
    cell_counts: Counter[str] = field(default_factory=Counter)

    @property
    def reasons(self) -> list[str]:
        """Why what was not run was not, a line each."""

        return [f"{reason}: {what.text}" for reason, what in self.not_run.items()]

    @property
    def sentence(self) -> str:
        """What became of the claims and the published figures."""
        return verdicts_text(self.claim_counts, self.cell_counts)


class Author:
    """Puts a page together.

    Args:
        study: which.
        scale: at which.
        folder: of the report; pictures and what was computed from checkpoints go there.
        sweeps: what became of them.
    """

    def __init__(self, study: Study, scale: str, folder: Path, sweeps: Mapping[str, SweepState]):
        self.folder = folder
        self.figures = Figures(study, scale, sweeps, Kept(folder / KEPT))
        self.page = Page(study, scale)
        self._found: dict[str, Found] = {}
        self._all: list[Found] = []

    def write(self) -> Page:
        """Returns the page."""
        page = self.page
        for number, claim in enumerate(page.study.claims, start=1):
            self.add_claim(claim, str(number))
        for number, table in enumerate(page.study.tables):
            self.add_table(table, f"tables[{number}]")
        self.add_pictures()
        self.figures.kept.close()
        if any(found.diverged for found in self._all):
            page.how += f" {DIVERGED_RULE}"
        if not all(found.is_finite for found in self._all):
            page.how += f" {LATE}"
        page.circumstances = circumstances(page.study, page.scale, self.folder, self.figures)
        return page

    def add_claim(self, claim: Claim, number: str) -> None:
        """Judges a claim."""
        if self.page.scale in claim.scales:
            found = [self.named(figure) for figure in claim.of]
            outcome = judge_claim(claim, found)
        else:
            found = []
            outcome = Outcome(NOT_RUN, elsewhere("checked", claim.scales))
        self.page.claims.append(claim_text(claim, found, outcome))
        self.page.claim_counts[outcome.verdict] += 1
        if outcome.verdict == NOT_RUN:
            self.kept_by(outcome.reason).claims.append(number)

    def named(self, figure: str | float) -> Found:
        """Returns a figure of the study by its name, or a number."""
        if not isinstance(figure, str):
            return Found({0: float(figure)}, is_number=True)
        if figure not in self._found:
            self._found[figure] = self.find(f"figures.{figure}", self.page.study.figures[figure])
        return self._found[figure]

    def find(self, name: str, figure: MetricSpec, expected: bool = True) -> Found:
        """Returns a figure; one that cannot be found lacks, and is a problem where it is expected at this scale."""
        try:
            found = self.figures.find(figure)
        except UserError as error:
            if isinstance(error, NoSuchRun) and not expected:
                return Found({}, lacks=f"no run of it at scale {self.page.scale}")
            self.problem(name, error)
            found = Found({}, lacks=IN_VAIN)
        self._all.append(found)
        return found

    def problem(self, name: str, error: UserError) -> None:
        """Puts on the page what the study's file asks for in vain; the same of many cells once."""
        if not any(line.endswith(f": {error}") for line in self.page.problems):
            self.page.problems.append(f"{self.page.study.name}.yaml: {name}: {error}")

    def add_table(self, table: StudyTable, name: str) -> None:
        """Judges the cells of a table."""
        cells, expected = [], self.page.scale in table.comparable
        for column in table.columns:
            for row in table.rows:
                found = self.find(f"{name}, {row}, {column}", table.cell(row, column), expected)
                published, outcome = "–", None
                if column in table.reference.get(row, {}):
                    published, outcome = self.judge(table, row, column, found, name)
                    self.page.cell_counts[outcome.verdict] += 1
                    if outcome.verdict == NOT_RUN:
                        self.kept_by(outcome.reason).cells[table.paper] += 1
                cells.append(Cell(row, column, found, published, outcome))
        self.page.tables.append(table_text(self.page.study, self.page.scale, table, cells))

    def judge(self, table: StudyTable, row: str, column: str, found: Found, name: str) -> tuple[str, Outcome]:
        """Returns what was published in a cell, and the verdict on it."""
        reference = table.reference[row][column]
        try:
            published = reference_text(reference, table.digits)
        except UserError as error:
            self.problem(f"{name}.reference.{row}.{column}", error)
            return "–", Outcome(NOT_RUN, IN_VAIN)
        if not found.lacks and self.page.scale not in table.comparable:
            return published, Outcome(NOT_COMPARABLE)
        return published, judge_cell(found, reference, table.tolerance)

    def add_pictures(self) -> None:
        """Draws what there is to draw."""
        for number, picture in enumerate(self.page.study.pictures):
            drawn: SavedFigure | str = elsewhere("drawn", picture.scales)
            if self.page.scale in picture.scales:
                try:
                    drawn = draw_study_picture(picture, number + 1, self.figures, self.folder)
                except UserError as error:
                    self.problem(f"pictures[{number}]", error)
                    drawn = IN_VAIN
            if isinstance(drawn, SavedFigure):
                self.page.pictures.append(drawn)
            else:
                self.kept_by(drawn).pictures.append(picture.paper)
        files = {path.name for picture in self.page.pictures for path in (picture.svg, picture.png)}
        for path in self.folder.glob("picture-*"):
            if path.name not in files:  # of an earlier report
                path.unlink()

    def kept_by(self, reason: str) -> NotRun:
        """Returns what a reason keeps from a verdict."""
        return self.page.not_run.setdefault(reason, NotRun())


def elsewhere(done: str, scales: list[str]) -> str:
    """Returns why something is not there at another scale than those where it is drawn or checked."""
    return f"it is {done} at scale {' and '.join(scales)} only"
