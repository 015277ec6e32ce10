"""The schema of a study's file in conf/study/: what is run at which scale, what is compared and what is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config.forms.object_files import find_files, parse, read_file, reject_unknown
from ..config.options import STUDIES
from ..system.errors import UserError

SCALES = ("smoke", "small", "paper")
ORDERS = ("above", "below", "equal", "rising", "falling", "at_most")
STATISTICS = ("mean", "median")  # of a table's cells, over seeds
LOG_AXES = ("x", "y")
ALL = "all"  # in place of the names of all studies
SOURCES = ("value", "row", "ensemble", "landscape")  # of a metric: exactly one of them
MetricSpec = dict[str, Any]  # which number of which runs, one value a seed; see metrics.py


@dataclass(frozen=True)
class Scale:
    """A size of a study.

    Attributes:
        about: what is trained on what, in one line.
        minutes: duration on two CPU cores, or on the hardware that `about` names; None where it is unknown.
        data: names of the data sets that it needs.
        files: further files that it needs, below data.root.
    """

    about: str
    minutes: float | None = None
    data: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StudySweep:
    """Runs of one command, `trainopt -m …`.

    Attributes:
        typed: overrides by scale; the sweep belongs to these scales alone. `{sweeps}` stands for the folder of the
            study's sweeps at that scale, `{data}` for data.root.
        after: sweeps whose results it needs, at the scales to which they belong; they stand before it in the file.
    """

    typed: dict[str, list[str]]
    after: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """A statement that our results can contradict, of the study or of ours.

    Attributes:
        text: the statement.
        paper: where the study says it.
        order: one of ORDERS. above, below: of the first metric to the second. equal: the two differ by at most
            `within`. rising, falling: each metric to the one before. at_most: of each pair (first and second, third
            and fourth, …) the first has a median over seeds of at most `factor` times the second's.
        of: names of metrics, or numbers.
        within: for `equal`, in the metrics' unit.
        factor: for `at_most`.
        pairs: for `at_most`: in how many pairs, if not in all.
        scales: at which it is checked.
        deterministic: its runs have no randomness, so one run of each decides.
        ours: the study does not claim it; it is counted apart.
    """

    text: str
    paper: str
    order: str
    of: list[str | float]
    within: float | None = None
    factor: float | None = None
    pairs: int | None = None
    scales: list[str] = field(default_factory=lambda: list(SCALES))
    deterministic: bool = False
    ours: bool = False


@dataclass(frozen=True)
class StudyTable:
    """Published values beside ours; or, with medians, rows and columns of ours alone.

    Attributes:
        title: what the values are, with their unit.
        paper: the number of the published table or figure.
        rows, columns: parts of a metric by label.
        metric: the part that is the same for all cells.
        reference: by row, then column: the published mean, or [mean, standard deviation(, seeds)].
        tolerance: absolute; how far ours may differ beyond our confidence interval.
        comparable: scales whose values measure the same as the published ones.
        differs: by scale, why its values do not.
        labels: by scale, labels that name what was run there, in place of those of rows and columns.
        digits: after the decimal point; null, with medians: three significant ones.
        statistic: one of STATISTICS. median: with the range over seeds; a run that misses a level counts as infinite.
        plot: with medians, for rows labelled with numbers: what these are. A panel for each column has them as points,
            and other rows as lines; null: no figure.
    """

    title: str
    paper: str
    rows: dict[str, MetricSpec]
    columns: dict[str, MetricSpec]
    metric: MetricSpec = field(default_factory=dict)
    reference: dict[str, dict[str, Any]] = field(default_factory=dict)
    tolerance: float = 0.0
    comparable: list[str] = field(default_factory=lambda: ["paper"])
    differs: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    digits: int | None = 2
    statistic: str = "mean"
    plot: str | None = None

    def cell(self, row: str, column: str) -> MetricSpec:
        """Returns the metric of a cell: its parts merged, keys inside of keys too."""
        whole: MetricSpec = {}
        for part in (self.metric, self.columns[column], self.rows[row]):
            for key, value in part.items():
                whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
        return whole


@dataclass(frozen=True)
class StudyFigure:
    """A figure: curves (means over seeds with their range), or a point for each method.

    Attributes:
        title: what is drawn.
        paper: the number of the published figure.
        sweep: that has the runs.
        x: for curves an axis of `trainopt compare` (steps, epochs, samples, gradients, seconds), for points a part of
            a metric.
        y: for curves {kind, column} of the records of metrics.jsonl, for points a part of a metric.
        where: selects runs.
        by: keys; runs that agree in them share a curve or a point. None: all keys that differ.
        log: axes with a logarithmic scale, of "x" and "y".
        since: where curves begin, as in 10steps; None: at the first record.
        scales: at which it is drawn.
    """

    title: str
    paper: str
    sweep: str
    x: str | MetricSpec
    y: MetricSpec
    where: dict[str, Any] = field(default_factory=dict)
    by: list[str] | None = None
    log: list[str] = field(default_factory=list)
    since: str | None = None
    scales: list[str] = field(default_factory=lambda: list(SCALES))


@dataclass(frozen=True)
class Study:
    """A published study; conf/study/ holds the shipped ones.

    Attributes:
        name: of its file.
        title, source: what it is about; authors and year.
        values: metrics by name, for claims.
    """

    name: str
    title: str
    source: str
    scales: dict[str, Scale]
    sweeps: dict[str, StudySweep]
    values: dict[str, MetricSpec] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    tables: list[StudyTable] = field(default_factory=list)
    figures: list[StudyFigure] = field(default_factory=list)


def find_studies(folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Returns the files of all studies by name: those of FOLDER/study/, and the shipped ones."""
    return find_files(STUDIES, folders)


def read_study(path: Path) -> Study:
    """Returns the study in a file; UserError as of `read_file`."""
    return read_file(path, Study, reject_former_keys, check)


def reject_former_keys(content: dict[str, Any]) -> None:
    """Raises UserError for a key of version 0.1.0 that has another name."""
    if "pictures" in content:
        raise UserError("pictures: is now figures")
    if isinstance(content.get("figures"), dict):
        raise UserError("figures: are now a list of figures to draw; metrics by name stand under values")
    tables = content.get("tables")
    for i, table in enumerate(tables if isinstance(tables, list) else ()):
        if isinstance(table, dict) and "figure" in table:
            raise UserError(f"tables[{i}].figure: is now tables[{i}].metric")


def check(study: Study) -> None:
    """Raises UserError where a part refers to something that the study does not have, or contradicts itself."""
    reject_unknown("scales.", study.scales, SCALES, "no such scale")
    before: list[str] = []
    for name, sweep in study.sweeps.items():
        reject_unknown(f"sweeps.{name}.typed.", sweep.typed, study.scales, "no such scale")
        reject_unknown(f"sweeps.{name}.after: ", sweep.after, study.sweeps, "no such sweep")
        for other in sweep.after:
            if other not in before:
                raise UserError(f"sweeps.{name}.after: {other}: has to stand before {name}")
        before.append(name)
    for name, metric in study.values.items():
        check_metric(study, f"values.{name}", metric)
    for i, claim in enumerate(study.claims):
        check_claim(study, f"claims[{i}]", claim)
    for i, table in enumerate(study.tables):
        check_table(study, f"tables[{i}]", table)
    for i, figure in enumerate(study.figures):
        reject_unknown(f"figures[{i}].sweep: ", [figure.sweep], study.sweeps, "no such sweep")
        reject_unknown(f"figures[{i}].log: ", figure.log, LOG_AXES, "no such axis")
        reject_unknown(f"figures[{i}].scales: ", figure.scales, SCALES, "no such scale")


def check_claim(study: Study, key: str, claim: Claim) -> None:
    """Raises UserError where a claim refers to something that the study does not have, or contradicts itself."""
    reject_unknown(f"{key}.order: ", [claim.order], ORDERS, "no such order")
    reject_unknown(f"{key}.of: ", [name for name in claim.of if isinstance(name, str)], study.values, "no such value")
    reject_unknown(f"{key}.scales: ", claim.scales, SCALES, "no such scale")
    if len(claim.of) < 2 or (len(claim.of) > 2 and claim.order in ("above", "below", "equal")):
        raise UserError(f"{key}.of: {claim.order} takes two values, rising, falling and at_most two or more")
    if (claim.order == "equal") != (claim.within is not None):
        raise UserError(f"{key}.within: belongs to order: equal, which needs it")
    if (claim.order == "at_most") != (claim.factor is not None):
        raise UserError(f"{key}.factor: belongs to order: at_most, which needs it")
    if claim.order == "at_most" and len(claim.of) % 2:
        raise UserError(f"{key}.of: at_most takes pairs of values, and one is left over")
    if claim.pairs is not None and (claim.order != "at_most" or not 1 <= claim.pairs <= len(claim.of) // 2):
        raise UserError(f"{key}.pairs: belongs to order: at_most, and is from 1 to the number of pairs in `of`")


def check_table(study: Study, key: str, table: StudyTable) -> None:
    """Raises UserError where a table refers to something that the study does not have."""
    for part in (table.metric, *table.rows.values(), *table.columns.values()):
        parse(f"{key}: where", part.get("where", {}), MetricSpec)
    for row in table.rows:
        for column in table.columns:
            check_metric(study, f"{key}, {row}, {column}", table.cell(row, column))
    reject_unknown(f"{key}.statistic: ", [table.statistic], STATISTICS, "no such statistic")
    if table.statistic == "median" and table.reference:
        raise UserError(f"{key}.reference: belongs to statistic: mean")
    if table.statistic == "mean" and table.digits is None:
        raise UserError(f"{key}.digits: null belongs to statistic: median")
    if table.plot is not None and not (table.statistic == "median" and any(map(is_number, table.rows))):
        raise UserError(f"{key}.plot: belongs to statistic: median, with rows that are labelled with numbers")
    reject_unknown(f"{key}.reference.", table.reference, table.rows, "no such row")
    for row, cells in table.reference.items():
        reject_unknown(f"{key}.reference.{row}.", cells, table.columns, "no such column")
    reject_unknown(f"{key}.comparable: ", table.comparable, SCALES, "no such scale")
    reject_unknown(f"{key}.differs.", table.differs, SCALES, "no such scale")
    reject_unknown(f"{key}.labels.", table.labels, SCALES, "no such scale")
    for scale, labels in table.labels.items():
        reject_unknown(f"{key}.labels.{scale}.", labels, [*table.columns, *table.rows], "no such row or column")


def check_metric(study: Study, key: str, metric: MetricSpec) -> None:
    """Raises UserError where a metric is incomplete or refers to a sweep that the study does not have."""
    reject_unknown(f"{key}: ", metric, ("sweep", "where", "best", "over", *SOURCES))
    parse(f"{key}: best", metric.get("best", ""), str)
    if "best" in metric and not {"reach", "fall_to"} & parse(f"{key}: row", metric.get("row", {}), MetricSpec).keys():
        raise UserError(f"{key}: best: belongs to row with reach or fall_to: the lowest cost is the best")
    if "over" in metric:
        check_metric(study, f"{key}: over", denominator(metric))
    parse(f"{key}: where", metric.get("where", {}), MetricSpec)
    if not metric.get("sweep"):
        raise UserError(f"{key}: sweep: is missing")
    reject_unknown(f"{key}: sweep: ", sweeps_of(metric), study.sweeps, "no such sweep")
    if sum(source in metric for source in SOURCES) != 1:
        raise UserError(f"{key}: must have one of {', '.join(SOURCES)}")


def sweeps_of(metric: MetricSpec) -> list[str]:
    """Returns the names of the sweeps that hold a metric's runs."""
    return metric["sweep"] if isinstance(metric["sweep"], list) else [metric["sweep"]]


def denominator(metric: MetricSpec) -> MetricSpec:
    """Returns the metric to which another one is the ratio: `over` replaces its parts, and in `row` only their keys."""
    over = parse("over", metric["over"], MetricSpec)
    parts = {key: value for key, value in metric.items() if key not in ("over", "best")} | over
    return parts | ({"row": {**metric["row"], **over["row"]}} if "row" in metric and "row" in over else {})


def is_number(label: str) -> bool:
    """Returns whether a row's label is a positive number in digits.

    >>> is_number("0.01"), is_number("Adam")
    (True, False)
    """
    return label.replace(".", "", 1).isdecimal()
