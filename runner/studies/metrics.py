"""Metrics of a study: which number of which runs, one value a seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from ..comparison.code_versions import code_obstacles, code_versions
from ..comparison.differences import configs_as_text, differing_keys, selected_keys, typed_text
from ..comparison.methods import exclusion_reason, with_derived_metrics
from ..comparison.metrics import METRICS
from ..comparison.significance import Estimate, estimate
from ..config.forms.object_files import parse
from ..config.overrides import split_override
from ..records.frames import Runs, load_folders
from ..records.job_table import is_trial, jobs_below
from ..reporting.method_styles import part_label
from ..search.tuning_budget import FINAL
from ..system.errors import UserError
from ..system.files import plural, shown
from .checkpoint_metrics import ResultCache, ensemble_values, landscape_values
from .plan import SweepState
from .record_metrics import record_values, summary_values
from .schema import SOURCES, MetricSpec, Study, denominator, sweeps_of

SeedValues = dict[int, float]  # by seed


@dataclass(frozen=True)
class MetricResult:
    """The values of a metric.

    Attributes:
        values: by seed (of an ensemble over seeds, by its first seed); infinite where a run never reaches the level.
        diverged: number of runs that diverged.
        unavailable: why there is no result, or only a part of one; None where it is complete.
        is_constant: whether it is a number that the study's file names, and not measured.
        chosen: the value of the key `best` that was chosen, with the key's label; empty without one.
        is_below_any: whether it is a ratio of which the divisor alone missed its level; its value is 0.
    """

    values: SeedValues
    diverged: int = 0
    unavailable: str | None = None
    is_constant: bool = False
    chosen: str = ""
    is_below_any: bool = False

    @property
    def finite_count(self) -> int:
        """The number of finite values."""
        return sum(map(math.isfinite, self.values.values()))

    @property
    def is_finite(self) -> bool:
        """Whether all values are finite."""
        return self.finite_count == len(self.values)

    @property
    def median(self) -> float:
        """The median over seeds; nan without any."""
        return median(self.values.values()) if self.values else math.nan

    @cached_property
    def estimate(self) -> Estimate:
        """Mean, standard deviation and confidence interval; where a value is infinite, the mean is and the rest nan."""
        if not self.is_finite:
            return Estimate(math.inf, math.nan, len(self.values), math.nan, math.nan)
        return estimate(list(self.values.values()))


@dataclass
class SweepRuns:
    """The runs of one or several sweeps that count for metrics.

    Attributes:
        runs: those that ended, diverged ones as the rule of `compare` says; no trials of a search.
        unfinished: the overrides of each run that has not ended or not begun.
    """

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


def read_sweeps(folders: list[Path]) -> SweepRuns:
    """Reads the runs of sweeps, without trials of a search and without final runs of an earlier search."""
    below = [(folder / name, job) for folder in folders for name, job in jobs_below(folder).items()]
    jobs = {path.resolve(): job for path, job in below if not is_trial(job) and job.get("role", FINAL) == FINAL}
    runs = load_folders([*jobs], exclusion_reason)
    if not runs.summaries.empty:
        runs = with_derived_metrics(runs, METRICS)
    left_out = {name for name, _ in runs.problems}
    overrides = {shown(path): job.get("overrides", []) for path, job in jobs.items()}
    return SweepRuns(runs, [of_run for name, of_run in overrides.items() if name in left_out])


def is_in_seconds(metric: MetricSpec) -> bool:
    """Returns whether a metric is a time.

    >>> is_in_seconds({"value": "best_top1.train_seconds"}), is_in_seconds({"value": "final.top1"})
    (True, False)
    """
    row = metric.get("row", {})
    names = (metric.get("value"), row.get("column"), row.get("axis"))
    return any(str(name).endswith("seconds") for name in names)


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
        self._runs: dict[tuple[str, ...], SweepRuns] = {}

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

    def sweep_runs(self, *sweeps: str) -> SweepRuns:
        """Returns the runs of sweeps."""
        if sweeps not in self._runs:
            self._runs[sweeps] = read_sweeps([self.sweeps[sweep].folder for sweep in sweeps])
        return self._runs[sweeps]

    @cached_property
    def code_versions(self) -> pd.DataFrame:
        """The versions of the files of which the study's runs used several, as of `code_versions`."""
        sweeps = [sweep for sweep in self.study.sweeps if self.why_unavailable(sweep) is None]
        return code_versions(pd.concat([self.sweep_runs(sweep).runs.environments for sweep in sweeps]))

    def read(self, metric: MetricSpec) -> MetricResult:
        """Returns the values of a metric; none of runs that used several versions of a file of the user's.

        There are none either if the files of any run of the sweeps do not agree: its configuration may have changed.

        Args:
            metric: `sweep`, one or a list whose runs count together; `where`, values by key; one of SOURCES; `best`, a
                key whose value is chosen, as of `best`; `over`, parts of another metric, as of `ratio`.

        Raises:
            UserError: the study's file asks for something that its runs do not have; the line says what they have.
        """
        if "over" in metric:
            return self.ratio(metric)
        reasons = {sweep: self.why_unavailable(sweep) for sweep in sweeps_of(metric)}
        sweeps = [sweep for sweep, why in reasons.items() if why is None]
        if not sweeps:
            return MetricResult({}, unavailable="; ".join(dict.fromkeys(filter(None, reasons.values()))))
        if differing := [*self.sweep_runs(*sweeps).runs.inconsistencies.values()]:
            more = f"; the files of {plural(len(differing) - 1, 'other run')} do not agree either"
            return MetricResult({}, unavailable=differing[0] + (more if len(differing) > 1 else ""))
        if "best" in metric:
            return self.best(sweeps, metric)
        where = metric.get("where", {})
        sweep_runs = self.sweep_runs(*sweeps)
        incomplete = f" of the sweep {', '.join(sweeps)} failed or never ended"
        missing = sum(may_match(overrides, where) for overrides in sweep_runs.unfinished)
        is_done = missing == 0 and all(self.is_done(sweep) for sweep in reasons)
        runs = self.runs_by_seed(sweeps, where, is_done)
        if not runs:
            known = filter(None, (*reasons.values(), *(self.sweeps[sweep].reason for sweep in sweeps)))
            return MetricResult(
                {}, unavailable="; ".join(dict.fromkeys(known)) or f"{plural(missing, 'run')}{incomplete}"
            )
        versions = self.code_versions.loc[[*runs.values()]].dropna(axis=1, how="all")
        if not versions.empty:
            return MetricResult({}, unavailable="; ".join(code_obstacles(self.code_versions[versions.columns])))
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
        typed = {sweep: self.study.sweeps[sweep].typed.get(self.scale) for sweep in reasons if sweep not in sweeps}
        pending = [sweep for sweep, words in typed.items() if words is not None and may_match(words, where)]
        return MetricResult(values, diverged, f"without the sweep {', '.join(pending)}" if pending else None)

    def ratio(self, metric: MetricSpec) -> MetricResult:
        """Returns the median of a metric in that of the one under `over`; 0 and infinite where one misses its level."""
        results = [self.read({k: v for k, v in metric.items() if k != "over"}), self.read(denominator(metric))]
        if reasons := dict.fromkeys(result.unavailable for result in results if result.unavailable):
            return MetricResult({}, unavailable="; ".join(reasons))
        above, below = (result.median for result in results)
        if below == 0 or (math.isinf(above) and math.isinf(below)):
            return MetricResult({}, unavailable="both medians miss the level" if below else "the divisor is 0")
        return MetricResult({0: above / below}, is_below_any=math.isinf(below))

    def best(self, sweeps: list[str], metric: MetricSpec) -> MetricResult:
        """Returns a metric at the value of the key `best` with the lowest median, over the seeds that all values have.

        The cost to a level is lowest in steps, whatever its axis is.
        """
        key, where = metric["best"], metric.get("where", {})
        sweep_runs, rest = self.sweep_runs(*sweeps), {k: v for k, v in metric.items() if k != "best"}
        if missing := sum(may_match(overrides, where) for overrides in sweep_runs.unfinished):
            why = f"{plural(missing, 'run')} of the sweep {', '.join(sweeps)} failed or never ended"
            return MetricResult({}, unavailable=why)
        try:
            names = sweep_runs.select(where)
        except UserError:
            names = []
        if not names:
            return self.read(rest)
        (column,) = selected_keys(sweep_runs.config_text, [key], "best:")
        known = dict.fromkeys(sweep_runs.config_text.loc[names, column])
        steps = rest | ({"row": {k: v for k, v in rest["row"].items() if k != "axis"}} if "row" in rest else {})
        results = {value: self.read(steps | {"where": where | {key: value}}) for value in known}
        if incomplete := dict.fromkeys(r.unavailable for r in results.values() if r.unavailable):
            return MetricResult({}, unavailable="; ".join(incomplete))
        seeds = set.intersection(*(set(result.values) for result in results.values()))
        if not seeds:
            raise UserError(f"best: {key}: there is no seed that was run with each of {', '.join(known)}")
        chosen = min(results, key=lambda value: median(results[value].values[seed] for seed in seeds))
        result = self.read(rest | {"where": where | {key: chosen}})
        return replace(result, chosen=part_label(key, chosen)) if math.isfinite(result.median) else result

    def is_done(self, sweep: str) -> bool:
        """Returns whether no run of a sweep is to come at this scale."""
        return self.scale not in self.study.sweeps[sweep].typed or self.sweeps[sweep].state == "done"

    def runs_by_seed(self, sweeps: list[str], where: dict[str, Any], is_done: bool) -> dict[int, str]:
        """Returns the runs with these values of keys, by seed; empty where unfinished runs may have them.

        Args:
            sweeps: that have the runs.
            where: values by key.
            is_done: whether no unfinished run may have these values.

        Raises:
            UserError: there is no such key or value, or the runs differ in more than their seed.
        """
        sweep_runs = self.sweep_runs(*sweeps)
        text = sweep_runs.config_text
        try:
            names = sweep_runs.select(where)
        except UserError:
            if is_done:
                raise
            return {}  # unfinished runs may have this key
        if not names:
            if not is_done:
                return {}
            query = " ".join(f"{key}={typed_text(value)}" for key, value in where.items())
            known = "; ".join(values_text(text, column) for column in selected_keys(text, where))
            raise NoMatchingRun(f"where: no run of the sweep {', '.join(sweeps)} has {query}; there are {known}")
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
    """Returns whether runs that have no files yet may have these values, by their overrides.

    >>> may_match(["optimizer=adam"], {"optimizer": "sgd"}), may_match(["seed=0"], {"optimizer": "sgd"})
    (False, True)
    >>> may_match(["seed=0,1"], {"seed": 1}), may_match(["seed=0,1"], {"seed": 2})
    (True, False)
    """
    typed = {key: value.strip("'\"").replace(" ", "") for _, key, value in map(split_override, overrides)}
    return all(
        any(is_same_value(text, value) for text in (typed[key], *typed[key].split(",")))
        for key, value in where.items()
        if key in typed
    )


def values_text(text: pd.DataFrame, column: str) -> str:
    """Returns a key with its values, as in `optimizer=adam, sgd`."""
    return f"{column.removeprefix('choices.')}={', '.join(dict.fromkeys(text[column]))}"
