"""A study as data: a file of conf/study/ says what is run at which scale, what is compared and what is drawn."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError, nearest

SCALES = ("smoke", "small", "paper")
ORDERS = ("above", "below", "equal", "rising", "falling")
FIGURE_KEYS = ("sweep", "where", "value", "row", "ensemble", "landscape")

Figure = dict[str, Any]  # which number of which runs, a value a seed; see study_figures


@dataclass(frozen=True)
class Scale:
    """One size of a study.

    Attributes:
        about: what is trained on what, in a line.
        minutes: how long it took on 2 CPU cores, or on what `about` says; None where nobody has run it.
        data: names of data sets that have to be there.
        files: further files, below data.root.
    """

    about: str
    minutes: float | None = None
    data: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StudySweep:
    """Runs of one command, `trainopt -m …`.

    Attributes:
        typed: what is typed behind it, by scale; at the others it is not run. `{sweeps}` stands for the folder of
            the study's sweeps at that scale, `{data}` for data.root.
        after: sweeps that have to be done before.
    """

    typed: dict[str, list[str]]
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """A statement of the study that our figures can contradict.

    Attributes:
        text: the statement.
        paper: where it stands.
        order: one of ORDERS: the first figure lies above (below) the second; two differ by at most `within`; each
            lies above (below) the one before.
        of: names of figures, or numbers.
        within: for `equal`, in the figures' unit.
        scales: where it is checked.
    """

    text: str
    paper: str
    order: str
    of: list[str | float]
    within: float | None = None
    scales: list[str] = field(default_factory=lambda: list(SCALES))


@dataclass(frozen=True)
class StudyTable:
    """Figures beside those that were published.

    Attributes:
        title: what the figures are, with their unit.
        paper: the published table's, or figure's, number.
        rows, columns: by label, the part of a figure that they stand for.
        figure: the part that is common to all cells.
        reference: row, column: the published number, or [number, standard deviation].
        tolerance: how far ours may lie from it, in its unit, beyond our interval.
        comparable: the scales at which ours are of the same thing.
        differs: at other scales, why they are not, in some words.
        digits: after the point.
    """

    title: str
    paper: str
    rows: dict[str, Figure]
    columns: dict[str, Figure]
    figure: Figure = field(default_factory=dict)
    reference: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance: float = 0.0
    comparable: list[str] = field(default_factory=lambda: ["paper"])
    differs: dict[str, str] = field(default_factory=dict)
    digits: int = 2

    def cell(self, row: str, column: str) -> Figure:
        """Return the figure of a cell; keys of the same name that hold keys themselves are put together."""
        found: Figure = {}
        for part in (self.figure, self.columns[column], self.rows[row]):
            for key, value in part.items():
                found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
        return found


@dataclass(frozen=True)
class StudyPicture:
    """Curves, means over seeds with their range, or a point a method.

    Attributes:
        title: what is drawn.
        paper: the published figure's number.
        sweep: whose runs.
        x: an axis of `trainopt compare` (steps, epochs, samples, gradients, seconds); for points a figure's part.
        y: for curves {kind, column} of the rows of metrics.jsonl, for points a figure's part.
        where: which of the runs.
        by: keys whose values make a line, or a point, each; None: whatever differs.
        log: axes with a logarithmic scale, of "x" and "y".
    """

    title: str
    paper: str
    sweep: str
    x: str | Figure
    y: Figure
    where: dict[str, Any] = field(default_factory=dict)
    by: list[str] | None = None
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """All of one; see conf/study/ for those that come along.

    Attributes:
        name: of its file.
        title, source: what it is about; who wrote it, and when.
        figures: by name, for claims.
    """

    name: str
    title: str
    source: str
    scales: dict[str, Scale]
    sweeps: dict[str, StudySweep]
    figures: dict[str, Figure]
    claims: list[Claim]
    tables: list[StudyTable]
    pictures: list[StudyPicture]


def read_study(path: Path) -> Study:
    """Return the study in a file.

    Raises:
        UserError: the file is none, or says something that cannot be; one line with what would be right.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values")
    where = path.name
    content = {"figures": {}, "claims": [], "tables": [], "pictures": [], **content}
    check_keys(where, content, [f.name for f in fields(Study) if f.name != "name"])
    scales = {name: built(Scale, f"{where}: scales.{name}", part) for name, part in content["scales"].items()}
    sweeps = {name: built(StudySweep, f"{where}: sweeps.{name}", part) for name, part in content["sweeps"].items()}

    def listed(kind: type, name: str) -> list[Any]:
        return [built(kind, f"{where}: {name}[{i}]", part) for i, part in enumerate(content[name])]

    study = Study(
        path.stem,
        content["title"],
        content["source"],
        scales,
        sweeps,
        content["figures"],
        listed(Claim, "claims"),
        listed(StudyTable, "tables"),
        listed(StudyPicture, "pictures"),
    )
    check(study, where)
    return study


def built(kind: type, where: str, part: Any) -> Any:
    """Return an object of a kind from a part of the file."""
    if not isinstance(part, dict):
        raise UserError(f"{where}: must hold keys and values")
    check_keys(where, part, [f.name for f in fields(kind)])
    wanted = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    for name in wanted:
        if name not in part:
            raise UserError(f"{where}: lacks {name}")
    return kind(**part)


def check_keys(where: str, part: dict[str, Any], known: list[str]) -> None:
    """Raise UserError for a key that is none of the known."""
    for key in part:
        if key not in known:
            raise UserError(f"{where}: {key}: unknown key{nearest(str(key), known)}; there are {', '.join(known)}")


def check(study: Study, where: str) -> None:
    """Raise UserError where a part names what is not there."""
    one_of(where, "scales", study.scales, SCALES)
    for name, sweep in study.sweeps.items():
        one_of(where, f"sweeps.{name}.typed", sweep.typed, study.scales)
        one_of(where, f"sweeps.{name}.after", sweep.after, study.sweeps)
    for name, figure in study.figures.items():
        check_figure(study, f"{where}: figures.{name}", figure)
    for i, claim in enumerate(study.claims):
        here = f"claims[{i}]"
        one_of(where, f"{here}.order", [claim.order], ORDERS)
        one_of(where, f"{here}.of", [name for name in claim.of if isinstance(name, str)], study.figures)
        one_of(where, f"{here}.scales", claim.scales, SCALES)
        if len(claim.of) < 2 or (len(claim.of) > 2 and claim.order in ("above", "below", "equal")):
            raise UserError(f"{where}: {here}.of: {claim.order} takes two figures, rising and falling two or more")
        if (claim.order == "equal") != (claim.within is not None):
            raise UserError(f"{where}: {here}.within: belongs to order: equal, which needs it")
    for i, table in enumerate(study.tables):
        here = f"tables[{i}]"
        for row in table.rows:
            for column in table.columns:
                check_figure(study, f"{where}: {here}, {row}, {column}", table.cell(row, column))
        one_of(where, f"{here}.reference", table.reference, table.rows)
        for row, cells in table.reference.items():
            one_of(where, f"{here}.reference.{row}", cells, table.columns)
        one_of(where, f"{here}.comparable", table.comparable, SCALES)
    for i, picture in enumerate(study.pictures):
        one_of(where, f"pictures[{i}].sweep", [picture.sweep], study.sweeps)


def check_figure(study: Study, where: str, figure: Figure) -> None:
    """Raise UserError where a figure is not said completely."""
    check_keys(where, figure, list(FIGURE_KEYS))
    if figure.get("sweep") not in study.sweeps:
        known = f"; there are {', '.join(study.sweeps)}"
        raise UserError(f"{where}: sweep: must be one of the study's, and is {figure.get('sweep')}{known}")
    kinds = [key for key in FIGURE_KEYS[2:] if key in figure]
    if len(kinds) != 1:
        raise UserError(f"{where}: must have one of {', '.join(FIGURE_KEYS[2:])}")


def one_of(where: str, what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise UserError for a name that is none of the known."""
    for name in names:
        if name not in known:
            hint = nearest(str(name), known)
            raise UserError(f"{where}: {what}: {name}: is not there{hint}; there are {', '.join(known)}")
