"""The figures of a study: which number of which runs, a value a seed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..comparison.methods import (
    AXES,
    configs_as_text,
    differing_keys,
    exclusion_reason,
    selected_keys,
    typed_text,
    with_derived_metrics,
)
from ..comparison.significance import Estimate, estimate
from ..config.durations import Duration
from ..config.overrides import split_override
from ..records.frames import Runs, load_runs
from ..records.job_table import jobs_below
from ..sweeps.tuning_budget import FINAL
from ..system.errors import UserError, nearest
from ..system.files import shown
from .checkpoint_metrics import Kept, check_asked, of_checkpoints, of_line
from .plan import SweepState
from .schema import MetricSpec, Study

Values = dict[int, float]  # by seed

TAKES: dict[str, Callable[[pd.Series], float]] = {
    "last": lambda numbers: numbers.iloc[-1],
    "first": lambda numbers: numbers.iloc[0],
    "max": lambda numbers: numbers.max(),
    "min": lambda numbers: numbers.min(),
    "mean": lambda numbers: numbers.mean(),
    "sum": lambda numbers: numbers.sum(),
}
WAYS = ("take", "at", "reach", "fall_to")  # from a run's rows to a number
# what the rows of a diverged run count as: figures of its summary, to which the rule of `compare` was applied
AS_DIVERGED = {"top1": "final.top1", "top5": "final.top5", "loss": "final.loss"}
AS_DIVERGED |= {"cross_entropy": "final.loss", "total": "final.loss"}


@dataclass(frozen=True)
class Found:
    """What a figure came out as.

    Attributes:
        values: by seed (of an ensemble of several runs, the first one's); infinite where a run never got there.
        diverged: how many of the runs did.
        lacks: why nothing can be said of it, as it was not run or not all of it; None where it is whole.
        is_number: whether it is a number that the study's file names.
    """

    values: Values
    diverged: int = 0
    lacks: str | None = None
    is_number: bool = False

    @property
    def reached(self) -> int:
        """In how many of the runs there is a number."""
        return sum(map(math.isfinite, self.values.values()))

    @property
    def is_finite(self) -> bool:
        """Whether all of them got there."""
        return self.reached == len(self.values)

    @cached_property
    def estimate(self) -> Estimate:
        """Mean, spread and interval; where a run never got there, the mean is infinite and the rest nan."""
        if not self.is_finite:
            return Estimate(math.inf, math.nan, len(self.values), math.nan, math.nan)
        return estimate(list(self.values.values()))


@dataclass
class SweepRuns:
    """The runs of a sweep that can be figures.

    Attributes:
        folder: the sweep's.
        runs: those that came to their end, diverged ones as the rule of `compare` says; no trials of a search.
        unfinished: the overrides of those that did not, or have not begun.
    """

    folder: Path
    runs: Runs
    unfinished: list[list[str]]

    @cached_property
    def text(self) -> pd.DataFrame:
        """The configurations as text."""
        return configs_as_text(self.runs.configs)

    def having(self, where: Mapping[str, Any]) -> list[str]:
        """Returns the runs that have given values; UserError for a key that none has."""
        kept = list(self.text.index)
        for column, value in zip(selected_keys(self.text, where, "where:"), where.values(), strict=True):
            kept = [run for run in kept if same(self.text.at[run, column], value)]
        return kept

    def only(self, names: list[str]) -> Runs:
        """Returns some of the runs."""
        metrics = self.runs.metrics
        parts = {name: getattr(self.runs, name).loc[names] for name in ("summaries", "configs", "environments")}
        return replace(self.runs, **parts, metrics=metrics[metrics["run"].isin(names)], problems=[])


def read_sweep(folder: Path) -> SweepRuns:
    """Reads the runs of a sweep; the trials of a search, and final runs of an earlier one, are left out."""
    below = jobs_below(folder).items()
    jobs = {name: job for name, job in below if "search" not in job and job.get("role", FINAL) == FINAL}
    runs = load_runs([folder / name for name in jobs], exclusion_reason)
    if not runs.summaries.empty:
        runs = with_derived_metrics(runs)
    out = {name for name, _ in runs.problems}
    overrides = {shown((folder / name).resolve()): job.get("overrides", []) for name, job in jobs.items()}
    return SweepRuns(folder, runs, [typed for name, typed in overrides.items() if name in out])


class NoSuchRun(UserError):
    """A figure is one of values that no run of its sweep has at this scale."""


class Figures:
    """Finds the figures of a study at one scale.

    Args:
        study: whose.
        scale: at which.
        sweeps: what became of its sweeps.
        kept: what was computed from checkpoints before.
    """

    def __init__(self, study: Study, scale: str, sweeps: Mapping[str, SweepState], kept: Kept):
        self.study = study
        self.scale = scale
        self.sweeps = sweeps
        self.kept = kept
        self._read: dict[str, SweepRuns] = {}

    def lacking(self, sweep: str) -> str | None:
        """Returns why there is nothing of a sweep, or None."""
        typed = self.study.sweeps[sweep].typed
        if self.scale not in typed:
            return f"a part of scale {', '.join(typed) or 'none'} only"
        state = self.sweeps.get(sweep)
        if state is None or state.state == "not_run":
            return (state.reason if state else None) or f"the sweep {sweep} was not run"
        if self.runs_of(sweep).runs.summaries.empty:
            return state.reason or f"none of the runs of the sweep {sweep} came to its end"
        return None

    def runs_of(self, sweep: str) -> SweepRuns:
        """Returns the runs of a sweep."""
        if sweep not in self._read:
            self._read[sweep] = read_sweep(self.sweeps[sweep].folder)
        return self._read[sweep]

    def find(self, figure: MetricSpec) -> Found:
        """Returns a figure.

        Raises:
            UserError: the study's file asks for what cannot be; the line says what could.
        """
        sweep = figure["sweep"]
        lacks = self.lacking(sweep)
        if lacks:
            return Found({}, lacks=lacks)
        where = figure.get("where", {})
        there = self.runs_of(sweep)
        of_it = f" of the sweep {sweep} failed or are missing"
        missing = sum(may_belong(overrides, where) for overrides in there.unfinished)
        runs = self.chosen(sweep, where, missing)
        if not runs:
            return Found({}, lacks=self.sweeps[sweep].reason or f"{missing} runs{of_it}")
        status = there.runs.summaries["status"]
        diverged = sum(status[run] == "diverged" for run in runs.values())
        if diverged and not {"value", "row"} & figure.keys():
            return Found({}, diverged, f"{diverged} of {len(runs)} runs diverged, whose weights say nothing")
        found = Found(self.values(there, runs, figure), diverged)
        unknown = sum(map(math.isnan, found.values.values()))
        if not found.values:
            return replace(found, lacks=f"{len(runs)} runs are too few for an ensemble")
        if unknown:
            at = figure.get("row", {}).get("at")
            what = f"did not get to {at}, or have no row before it" if at else "have no such number"
            return Found({}, diverged, f"{unknown} of {len(runs)} runs {what}")
        if missing:
            return replace(found, lacks=f"{missing} of {missing + len(runs)} runs{of_it}")
        return found

    def chosen(self, sweep: str, where: dict[str, Any], missing: int) -> dict[int, str]:
        """Returns the runs, by seed, that have given values; empty where all of them are among the missing.

        Raises:
            UserError: there is no such key or value, or the runs differ in more than their seed.
        """
        there = self.runs_of(sweep)
        text = there.text
        may_come = missing > 0 or self.sweeps[sweep].state != "done"
        try:
            kept = there.having(where)
        except UserError:
            if may_come:  # a key of those alone, perhaps
                return {}
            raise
        if not kept:
            if may_come:
                return {}
            wanted = " ".join(f"{key}={typed_text(value)}" for key, value in where.items())
            known = "; ".join(values_there(text, column) for column in selected_keys(text, where))
            raise NoSuchRun(f"where: no run of the sweep {sweep} has {wanted}; there are {known}")
        differ = differing_keys(there.runs.configs.loc[kept])
        if differ:
            known = "; ".join(values_there(text.loc[kept], column) for column in differ[:4])
            more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
            raise UserError(f"where: the runs differ in more than their seed; add one of: {known}{more}")
        by_seed: dict[int, str] = {}
        for run in kept:
            by_seed.setdefault(int(there.runs.summaries.at[run, "seed"]), run)
        return by_seed

    def values(self, there: SweepRuns, runs: dict[int, str], figure: MetricSpec) -> Values:
        """Returns a figure's value for each of some runs; nan where a run has none.

        Args:
            there: the sweep's.
            runs: by seed.
            figure: its part that says which number.
        """
        if "value" in figure:
            return of_summaries(there.runs, runs, figure["value"])
        if "row" in figure:
            return of_rows(there.runs, runs, expect(figure["row"], dict, "row", "keys with values"))
        if "ensemble" not in figure and "landscape" not in figure:
            raise UserError("must have one of value, row, ensemble, landscape")
        folders = {seed: Path(run) for seed, run in runs.items()}
        kind, of = ("ensemble", of_checkpoints) if "ensemble" in figure else ("landscape", of_line)
        return of(folders, expect(figure[kind], dict, kind, "keys with values"), self.kept)


def expect(part: Any, kind: type, name: str, what: str) -> Any:
    """Returns a part of a figure; UserError where it is of another kind."""
    if not isinstance(part, kind):
        raise UserError(f"{name}: must be {what}, and is {part}")
    return part


def same(text: str, wanted: Any) -> bool:
    """Returns whether a value of a configuration, as text, is the one that is wanted; numbers are compared as such.

    >>> same("20.0", 20), same("[1.0,2.0]", [1, 2]), same("null", None), same("adam", "sgd")
    (True, True, True, False)
    """
    theirs = typed_text(wanted)
    if text.startswith("[") and theirs.startswith("["):
        one, other = (value.strip("[]").split(",") for value in (text, theirs))
        return len(one) == len(other) and all(map(same, one, other))
    if text == theirs or {text, theirs} <= {"", "null"}:  # no such key, or one without a value
        return True
    try:
        return float(text) == float(theirs)
    except ValueError:
        return False


def may_belong(overrides: list[str], where: Mapping[str, Any]) -> bool:
    """Returns whether a run that has no record yet may be one of those with given values.

    >>> may_belong(["optimizer=adam"], {"optimizer": "sgd"}), may_belong(["seed=0"], {"optimizer": "sgd"})
    (False, True)
    """
    typed = {key: value for _, key, value in map(split_override, overrides)}
    return all(same(typed[key].strip("'\"").replace(" ", ""), value) for key, value in where.items() if key in typed)


def values_there(text: pd.DataFrame, column: str) -> str:
    """Returns the values of a key as people type them, as in `optimizer=adam, sgd`."""
    return f"{column.removeprefix('choices.')}={', '.join(dict.fromkeys(text[column]))}"


def of_summaries(runs: Runs, chosen: dict[int, str], column: Any) -> Values:
    """Returns a column of the summaries."""
    if column not in runs.summaries:
        known = [name for name in runs.summaries if pd.api.types.is_numeric_dtype(runs.summaries[name])]
        raise UserError(
            f"value: {column}: no summary has such a figure{nearest(str(column), known)}; there are, among others,"
            " final.top1, final.loss, best_top1.value, lowest_loss.value, train_seconds"
        )
    numbers = pd.to_numeric(runs.summaries.loc[list(chosen.values()), column], errors="coerce")
    if numbers.isna().all() and runs.summaries[column].map(lambda value: isinstance(value, str)).any():
        raise UserError(f"value: {column}: is no number")
    return {seed: float(numbers[run]) for seed, run in chosen.items()}


def of_rows(runs: Runs, chosen: dict[int, str], row: dict[str, Any]) -> Values:
    """Returns what rows of metrics.jsonl say; see `study_figures` for the ways from them to a number."""
    check_asked("row", row, ("kind", "column"), (*WAYS, "axis"))
    ways = [way for way in WAYS if way in row]
    if len(ways) != 1:
        raise UserError(f"row: must have one of {', '.join(WAYS)}, and has {', '.join(ways) or 'none'}")
    if "axis" in row and ways[0] not in ("reach", "fall_to"):
        raise UserError("row: axis: belongs to reach and fall_to")
    rows, column = runs.metrics, row["column"]
    rows = rows[(rows["kind"] == row["kind"]) & rows["run"].isin(chosen.values())].dropna(axis=1, how="all")
    if rows.empty:
        kinds = list(dict.fromkeys(runs.metrics["kind"]))
        raise UserError(f"row: kind: {row['kind']}: there are no such rows, but of {', '.join(map(str, kinds))}")
    if column not in rows:
        known = [str(name) for name in rows if name not in ("kind", "run")]
        raise UserError(
            f"row: column: {column}: rows of kind {row['kind']} have none{nearest(str(column), known)};"
            f" they have {', '.join(known)}"
        )
    number, ends = number_from(row, ways[0]), None
    if ways[0] == "at":
        axis, amount = place(row["at"])
        ends = runs.metrics.groupby("run")[axis].max() >= amount * (1 - 1e-9)
    diverged = runs.summaries["status"] == "diverged"
    found = {}
    for seed, run in chosen.items():
        part = rows[rows["run"] == run]
        part = part.assign(number=pd.to_numeric(part[column], errors="coerce")).dropna(subset="number")
        if diverged[run] and ways[0] in ("reach", "fall_to"):
            found[seed] = math.inf
        elif diverged[run] and column in AS_DIVERGED and row.get("take") != "sum":
            found[seed] = float(runs.summaries.at[run, AS_DIVERGED[column]])
        else:
            there = len(part) > 0 and (ends is None or ends[run])
            found[seed] = float(number(part)) if there else math.nan
    return found


def number_from(row: dict[str, Any], way: str) -> Callable[[pd.DataFrame], float]:
    """Returns what makes a number of a run's rows, whose column `number` is looked at."""
    if way == "take":
        if row["take"] not in TAKES:
            raise UserError(f"row: take: must be one of {', '.join(TAKES)}, and is {row['take']}")
        return lambda rows: TAKES[row["take"]](rows["number"])
    if way == "at":
        axis, amount = place(row["at"])

        def last_before(rows: pd.DataFrame) -> float:
            numbers = rows.loc[rows[axis] <= amount * (1 + 1e-9), "number"]
            return math.nan if numbers.empty else numbers.iloc[-1]

        return last_before
    axis = row.get("axis", "steps")
    if axis not in AXES:
        raise UserError(f"row: axis: must be one of {', '.join(AXES)}, and is {axis}")
    level = row[way]
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise UserError(f"row: {way}: must be a number, and is {level}")

    def first_there(rows: pd.DataFrame) -> float:
        there = rows["number"] >= level if way == "reach" else rows["number"] <= level
        return rows.loc[there, AXES[axis]].iloc[0] if there.any() else math.inf

    return first_there


def place(text: Any, key: str = "row: at") -> tuple[str, float]:
    """Returns (column of the rows, amount) of a place on an axis, which stands behind a key.

    >>> place("2epochs"), place("500samples")
    (('epoch', 2.0), ('samples', 500.0))
    """
    for axis, column in AXES.items():
        amount = str(text).removesuffix(axis)
        if axis not in ("steps", "epochs") and amount != str(text):
            try:
                return column, float(amount)
            except ValueError:
                break
    try:
        duration = Duration.parse(text)
    except UserError as error:
        raise UserError(f"{key}: must be as 300steps, 2epochs or 5000samples, and is {text}") from error
    return AXES[duration.unit], float(duration.amount)
