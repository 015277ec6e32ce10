"""Metrics of a study: which number of which runs, one value a seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..comparison.differences import configs_as_text, differing_keys, selected_keys, typed_text
from ..comparison.methods import exclusion_reason, with_derived_metrics
from ..comparison.metrics import METRICS
from ..comparison.significance import Estimate, estimate
from ..config.overrides import split_override
from ..records.frames import Runs, load_folders
from ..records.job_table import is_trial, jobs_below
from ..search.tuning_budget import FINAL
from ..system.errors import UserError
from ..system.files import shown
from .checkpoint_metrics import ResultCache, ensemble_values, landscape_values
from .plan import SweepState
from .record_metrics import record_values, summary_values
from .schema import SOURCES, MetricSpec, Study, parse

SeedValues = dict[int, float]  # by seed


@dataclass(frozen=True)
class MetricResult:
    """The values of a metric.

    Attributes:
        values: by seed (of an ensemble over seeds, by its first seed); infinite where a run never reaches the level.
        diverged: number of runs that diverged.
        unavailable: why there is no result, or only a part of one; None where it is complete.
        is_constant: whether it is a number that the study's file names, and not measured.
    """

    values: SeedValues
    diverged: int = 0
    unavailable: str | None = None
    is_constant: bool = False

    @property
    def finite_count(self) -> int:
        """The number of finite values."""
        return sum(map(math.isfinite, self.values.values()))

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite."""
        return self.finite_count == len(self.values)

    @cached_property
    def estimate(self) -> Estimate:
        """Mean, standard deviation and confidence interval; where a value is infinite, the mean is and the rest nan."""
        if not self.is_finite:
            return Estimate(math.inf, math.nan, len(self.values), math.nan, math.nan)
        return estimate(list(self.values.values()))


@dataclass
class SweepRuns:
    """The runs of a sweep that count for metrics.

    Attributes:
        folder: of the sweep.
        runs: those that ended, diverged ones as the rule of `compare` says; no trials of a search.
        unfinished: the overrides of each run that has not ended or not begun.
    """

    folder: Path
    runs: Runs
    unfinished: list[list[str]]

    @cached_property
    def config_text(self) -> pd.DataFrame:
        """The configurations as text."""
        return configs_as_text(self.runs.configs)

    def select(self, where: Mapping[str, Any]) -> list[str]:
        """Returns the runs with these values of keys; UserError for a key that no run has."""
        names = list(self.config_text.index)
        columns = selected_keys(self.config_text, where, "where:")
        for column, value in zip(columns, where.values(), strict=True):
            names = [name for name in names if is_same_value(self.config_text.at[name, column], value)]
        return names

    def subset(self, names: list[str]) -> Runs:
        """Returns the frames of some of the runs."""
        metrics = self.runs.metrics
        parts = {name: getattr(self.runs, name).loc[names] for name in ("summaries", "configs", "environments")}
        return replace(self.runs, **parts, metrics=metrics[metrics["run"].isin(names)], problems=[])


def read_sweep(folder: Path) -> SweepRuns:
    """Reads the runs of a sweep, without trials of a search and without final runs of an earlier search."""
    below = jobs_below(folder).items()
    jobs = {name: job for name, job in below if not is_trial(job) and job.get("role", FINAL) == FINAL}
    runs = load_folders([(folder / name).resolve() for name in jobs], exclusion_reason)
    if not runs.summaries.empty:
        runs = with_derived_metrics(runs, METRICS)
    left_out = {name for name, _ in runs.problems}
    overrides = {shown((folder / name).resolve()): job.get("overrides", []) for name, job in jobs.items()}
    return SweepRuns(folder, runs, [of_run for name, of_run in overrides.items() if name in left_out])


class NoMatchingRun(UserError):
    """A metric selects runs by values that no run of its sweep has at this scale."""


class MetricReader:
    """Reads the metrics of a study at one scale.

    Args:
        study: that defines them.
        scale: at which it was run.
        sweeps: the state of each sweep, by name.
        cache: of results that are computed from checkpoints.
    """

    def __init__(self, study: Study, scale: str, sweeps: Mapping[str, SweepState], cache: ResultCache):
        self.study = study
        self.scale = scale
        self.sweeps = sweeps
        self.cache = cache
        self._runs: dict[str, SweepRuns] = {}

    def why_unavailable(self, sweep: str) -> str | None:
        """Returns why a sweep has no runs that count, or None."""
        typed = self.study.sweeps[sweep].typed
        if self.scale not in typed:
            return f"part of scale {', '.join(typed) or 'none'} only"
        state = self.sweeps.get(sweep)
        if state is None or state.state == "not_run":
            return (state.reason if state else None) or f"the sweep {sweep} was not run"
        if self.sweep_runs(sweep).runs.summaries.empty:
            return state.reason or f"no run of the sweep {sweep} ended"
        return None

    def sweep_runs(self, sweep: str) -> SweepRuns:
        """Returns the runs of a sweep."""
        if sweep not in self._runs:
            self._runs[sweep] = read_sweep(self.sweeps[sweep].folder)
        return self._runs[sweep]

    def read(self, metric: MetricSpec) -> MetricResult:
        """Returns the values of a metric.

        Raises:
            UserError: the study's file asks for something that its runs do not have; the line says what they have.
        """
        sweep = metric["sweep"]
        why = self.why_unavailable(sweep)
        if why:
            return MetricResult({}, unavailable=why)
        where = metric.get("where", {})
        sweep_runs = self.sweep_runs(sweep)
        incomplete = f" of the sweep {sweep} failed or are missing"
        missing = sum(may_match(overrides, where) for overrides in sweep_runs.unfinished)
        runs = self.runs_by_seed(sweep, where, missing)
        if not runs:
            return MetricResult({}, unavailable=self.sweeps[sweep].reason or f"{missing} runs{incomplete}")
        status = sweep_runs.runs.summaries["status"]
        diverged = sum(status[run] == "diverged" for run in runs.values())
        if diverged and not {"value", "row"} & metric.keys():
            return MetricResult({}, diverged, f"{diverged} of {len(runs)} runs diverged, and their weights have no use")
        values = self.values(sweep_runs, runs, metric)
        unknown = sum(map(math.isnan, values.values()))
        if not values:
            return MetricResult({}, diverged, f"{len(runs)} runs are too few for an ensemble")
        if unknown:
            at = metric.get("row", {}).get("at")
            what = f"ended before {at}, or have no record before it" if at else "have no such value"
            return MetricResult({}, diverged, f"{unknown} of {len(runs)} runs {what}")
        if missing:
            return MetricResult(values, diverged, f"{missing} of {missing + len(runs)} runs{incomplete}")
        return MetricResult(values, diverged)

    def runs_by_seed(self, sweep: str, where: dict[str, Any], missing: int) -> dict[int, str]:
        """Returns the runs with these values of keys, by seed; empty where unfinished runs may have them.

        Args:
            sweep: that has the runs.
            where: values by key.
            missing: number of unfinished runs that may have these values.

        Raises:
            UserError: there is no such key or value, or the runs differ in more than their seed.
        """
        sweep_runs = self.sweep_runs(sweep)
        text = sweep_runs.config_text
        may_follow = missing > 0 or self.sweeps[sweep].state != "done"
        try:
            names = sweep_runs.select(where)
        except UserError:
            if may_follow:  # unfinished runs may have this key
                return {}
            raise
        if not names:
            if may_follow:
                return {}
            query = " ".join(f"{key}={typed_text(value)}" for key, value in where.items())
            known = "; ".join(values_text(text, column) for column in selected_keys(text, where))
            raise NoMatchingRun(f"where: no run of the sweep {sweep} has {query}; there are {known}")
        differ = differing_keys(sweep_runs.runs.configs.loc[names])
        if differ:
            known = "; ".join(values_text(text.loc[names], column) for column in differ[:4])
            more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
            raise UserError(f"where: the runs differ in more than their seed; add one of: {known}{more}")
        by_seed: dict[int, str] = {}
        for name in names:
            by_seed.setdefault(int(sweep_runs.runs.summaries.at[name, "seed"]), name)
        return by_seed

    def values(self, sweep_runs: SweepRuns, runs: dict[int, str], metric: MetricSpec) -> SeedValues:
        """Returns a metric's value of each run; nan where a run has none.

        Args:
            sweep_runs: of the metric's sweep.
            runs: the selected ones, by seed.
            metric: has the source of the values.
        """
        if "value" in metric:
            return summary_values(sweep_runs.runs, runs, metric["value"])
        source = next((name for name in SOURCES if name in metric), None)
        if source is None:
            raise UserError(f"must have one of {', '.join(SOURCES)}")
        query = parse(source, metric[source], dict[str, Any])
        if source == "row":
            return record_values(sweep_runs.runs, runs, query)
        compute = ensemble_values if source == "ensemble" else landscape_values
        return compute({seed: Path(run) for seed, run in runs.items()}, query, self.cache)


def is_same_value(text: str, value: Any) -> bool:
    """Returns whether a configuration's value, as text, is the value in a study's file; numbers compare as numbers.

    >>> is_same_value("20.0", 20), is_same_value("[1.0,2.0]", [1, 2]), is_same_value("adam", "sgd")
    (True, True, False)
    """
    other_text = typed_text(value)
    if text.startswith("[") and other_text.startswith("["):
        one, other = (part.strip("[]").split(",") for part in (text, other_text))
        return len(one) == len(other) and all(map(is_same_value, one, other))
    if text == other_text or {text, other_text} <= {"", "null"}:  # a missing key is null
        return True
    try:
        return float(text) == float(other_text)
    except ValueError:
        return False


def may_match(overrides: list[str], where: Mapping[str, Any]) -> bool:
    """Returns whether a run that has no files yet may have these values, by its overrides.

    >>> may_match(["optimizer=adam"], {"optimizer": "sgd"}), may_match(["seed=0"], {"optimizer": "sgd"})
    (False, True)
    """
    typed = {key: value for _, key, value in map(split_override, overrides)}
    return all(
        is_same_value(typed[key].strip("'\"").replace(" ", ""), value) for key, value in where.items() if key in typed
    )


def values_text(text: pd.DataFrame, column: str) -> str:
    """Returns a key with its values, as in `optimizer=adam, sgd`."""
    return f"{column.removeprefix('choices.')}={', '.join(dict.fromkeys(text[column]))}"
