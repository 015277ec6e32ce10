"""A study as data: a file of conf/study/ says what is run at which scale, what is compared and what is drawn."""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..config.options import CONF, STUDIES, read
from ..system.errors import UserError, nearest, one_line

SCALES = ("smoke", "small", "paper")
ORDERS = ("above", "below", "equal", "rising", "falling")
AXES = ("x", "y")
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
        after: sweeps that have to be done before, where they are run at that scale; they stand before this one.
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
        """Returns the figure of a cell; keys of the same name that hold keys themselves are put together."""
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
        since: where curves begin, as in 10steps; None: at the first row.
        scales: where it is drawn.
    """

    title: str
    paper: str
    sweep: str
    x: str | Figure
    y: Figure
    where: dict[str, Any] = field(default_factory=dict)
    by: list[str] | None = None
    log: list[str] = field(default_factory=list)
    since: str | None = None
    scales: list[str] = field(default_factory=lambda: list(SCALES))


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


def find_studies(config_dir: Path | None) -> dict[str, Path]:
    """Returns the files of all studies by name: those of DIR/study/, and those that come along."""
    folders = [CONF, *([config_dir] if config_dir else [])]  # a study of one's own goes before one of ours
    return {path.stem: path for folder in folders for path in sorted((folder / STUDIES).glob("*.yaml"))}


def read_study(path: Path) -> Study:
    """Returns the study in a file.

    Raises:
        UserError: the file is none, or says something that cannot be; one line with what would be right.
    """
    try:
        content = read(path)  # with Hydra's numbers: 1e-4 is one
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path}: cannot be read: {one_line(error)[:200]}") from error
    where = path.name
    check_keys(where, content, [f.name for f in fields(Study) if f.name != "name"])
    content = {"figures": {}, "claims": [], "tables": [], "pictures": [], **content}
    parts = {
        "scales": Scale,
        "sweeps": StudySweep,
        "claims": Claim,
        "tables": StudyTable,
        "pictures": StudyPicture,
    }
    study = built(Study, where, {**content, "name": path.stem}, parts)
    check(study, where)
    return study


def built(kind: type, where: str, part: Any, parts: dict[str, type] | None = None) -> Any:
    """Returns an object of a kind from a part of the file.

    Args:
        kind: a dataclass.
        where: the part stands, for errors.
        part: what stands there.
        parts: of which kind the values, or elements, of some keys are.
    """
    if not isinstance(part, dict):
        raise UserError(f"{where}: must hold keys and values")
    check_keys(where, part, [f.name for f in fields(kind)])
    given = dict(part)
    for known in fields(kind):
        key = f"{where}: {known.name}"
        if known.name not in part:
            if known.default is MISSING and known.default_factory is MISSING:
                raise UserError(f"{where}: lacks {known.name}")
            continue
        value = part[known.name]
        inner = (parts or {}).get(known.name)
        if inner is None:
            check_type(key, value, known.type)
        elif get_origin(known.type) is dict:
            check_type(key, value, dict)
            given[known.name] = {name: built(inner, f"{key}.{name}", v) for name, v in value.items()}
        else:
            check_type(key, value, list)
            given[known.name] = [built(inner, f"{key}[{i}]", v) for i, v in enumerate(value)]
    return kind(**given)


def check_type(where: str, value: Any, wanted: Any) -> None:
    """Raises UserError where a value is not of a field's type."""
    if not fits(value, wanted):
        raise UserError(f"{where}: must be {in_words(wanted)}, and is {one_line(value)[:80]}")


def in_words(wanted: Any) -> str:
    """Returns what a type means to who writes YAML.

    >>> in_words(dict[str, list[str]]), in_words(float | None)
    ('keys and values, each a list, each text', 'a number or null')
    """
    words = {str: "text", float: "a number", int: "an integer", NoneType: "null"}
    words |= {dict: "keys and values", list: "a list"}
    inner = get_args(wanted)
    if isinstance(wanted, UnionType):
        return " or ".join(map(in_words, inner))
    if not inner:
        return words[wanted]
    return words[get_origin(wanted)] + ("" if inner[-1] is Any else f", each {in_words(inner[-1])}")


def fits(value: Any, wanted: Any) -> bool:
    """Returns whether a value is of a type, as fields of dataclasses name it; keys are not looked at.

    >>> fits({"smoke": ["seed=0"]}, dict[str, list[str]]), fits({"smoke": "seed=0"}, dict[str, list[str]])
    (True, False)
    >>> fits(1, float), fits(None, float | None), fits(True, float)
    (True, True, False)
    """
    if wanted is Any:
        return True
    if isinstance(wanted, UnionType):
        return any(fits(value, one) for one in get_args(wanted))
    inner = get_args(wanted)
    if get_origin(wanted) is dict:
        return isinstance(value, dict) and all(fits(v, inner[1]) for v in value.values())
    if get_origin(wanted) is list:
        return isinstance(value, list) and all(fits(v, inner[0]) for v in value)
    if wanted in (int, float):
        return isinstance(value, int | wanted) and not isinstance(value, bool)
    return isinstance(value, wanted)


def check_keys(where: str, part: dict[str, Any], known: list[str]) -> None:
    """Raises UserError for a key that is none of the known."""
    for key in part:
        if key not in known:
            raise UserError(
                f"{where}: {key}: unknown key{nearest(str(key), known)}; there are {', '.join(map(str, known))}"
            )


def check(study: Study, where: str) -> None:
    """Raises UserError where a part names what is not there."""
    one_of(where, "scales", study.scales, SCALES)
    before: list[str] = []
    for name, sweep in study.sweeps.items():
        one_of(where, f"sweeps.{name}.typed", sweep.typed, study.scales)
        one_of(where, f"sweeps.{name}.after", sweep.after, study.sweeps)
        for other in sweep.after:
            if other not in before:
                raise UserError(f"{where}: sweeps.{name}.after: {other}: has to stand before {name}")
        before.append(name)
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
        for part in (table.figure, *table.rows.values(), *table.columns.values()):
            check_type(f"{where}: {here}: where", part.get("where", {}), dict)
        for row in table.rows:
            for column in table.columns:
                check_figure(study, f"{where}: {here}, {row}, {column}", table.cell(row, column))
        one_of(where, f"{here}.reference", table.reference, table.rows)
        for row, cells in table.reference.items():
            one_of(where, f"{here}.reference.{row}", cells, table.columns)
        one_of(where, f"{here}.comparable", table.comparable, SCALES)
        one_of(where, f"{here}.differs", table.differs, SCALES)
    for i, picture in enumerate(study.pictures):
        one_of(where, f"pictures[{i}].sweep", [picture.sweep], study.sweeps)
        one_of(where, f"pictures[{i}].log", picture.log, AXES)
        one_of(where, f"pictures[{i}].scales", picture.scales, SCALES)


def check_figure(study: Study, where: str, figure: Figure) -> None:
    """Raises UserError where a figure is not said completely."""
    check_keys(where, figure, list(FIGURE_KEYS))
    check_type(f"{where}: where", figure.get("where", {}), dict)
    if figure.get("sweep") not in study.sweeps:
        known = f"; there are {', '.join(study.sweeps)}"
        raise UserError(f"{where}: sweep: must be one of the study's, and is {figure.get('sweep')}{known}")
    kinds = [key for key in FIGURE_KEYS[2:] if key in figure]
    if len(kinds) != 1:
        raise UserError(f"{where}: must have one of {', '.join(FIGURE_KEYS[2:])}")


def one_of(where: str, what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Raises UserError for a name that is none of the known."""
    for name in names:
        if name not in known:
            hint = nearest(str(name), known)
            raise UserError(f"{where}: {what}: {name}: is not there{hint}; there are {', '.join(map(str, known))}")
