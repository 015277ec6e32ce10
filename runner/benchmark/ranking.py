"""The ranking of submissions by their benchmark score, with what stands beside it."""

from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from ..comparison.code_versions import code_obstacles, code_versions, data_checksums, program_obstacles
from ..records.run_folder import ENVIRONMENT, flatten
from ..scores.aggregates import bootstrap_interval, improvement_probability, interquartile_mean, relative_speeds
from ..scores.profiles import TAU_MAX, benchmark_score, median_times, performance_ratios, profile
from ..system.files import read_json, shown
from .results import AXES, Results

CURVE_POINTS = 301  # of a profile in benchmark.json and in the figure: 1, 1.01, …, 4


@dataclass
class Score:
    """The scores of a submission in one cost.

    Attributes:
        score: the benchmark score, from 0 to 1.
        low, high: its bootstrap interval over studies; nan with a single study.
        reached: on how many workloads the median study reached the target.
        interquartile_mean: of the speeds relative to the fastest submission, over workloads and studies.
        improvement: the probability of being faster than the first submission.
        profile: rho(tau) at `taus()`.
    """

    score: float
    low: float
    high: float
    reached: int
    interquartile_mean: float
    improvement: float
    profile: list[float]


@dataclass
class Ranking:
    """The ranking of a benchmark.

    Attributes:
        results: on which it rests.
        axis: the cost by which is ranked.
        scores: by cost, then submission.
        medians: by cost, (submissions, workloads).
        unfinished: a line for each search that lacks trials.
        failures: a line for each search of which some trials failed, which count as misses.
        refusals: a line for each workload that cannot be trained with a submission, which counts as a miss.
        obstacles: a line for each reason not to compare the runs: other code, another version, other data, a summary
            that its records or its configuration do not have.
    """

    results: Results
    axis: str
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    medians: dict[str, np.ndarray] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[str]:
        """The submissions, the best first."""
        scores = self.scores[self.axis]
        return sorted(scores, key=lambda name: -scores[name].score)

    @property
    def unreached(self) -> list[str]:
        """The workloads whose targets the median study of no submission reached."""
        missed = np.isinf(self.medians[self.axis]).all(axis=0)
        return [name for name, is_missed in zip(self.results.plan.suite.workloads, missed, strict=True) if is_missed]

    @property
    def labels(self) -> dict[str, str]:
        """The label of each submission, by its name."""
        return {submission.name: submission.label for submission in self.results.plan.submissions}

    @property
    def baseline(self) -> str:
        """The first submission, with which the others are compared."""
        return self.results.plan.submissions[0].name

    @property
    def counted(self) -> int:
        """How many workloads count: those that are not held out."""
        suite = self.results.plan.suite
        return len(suite.workloads) - len(suite.held_out)


def taus() -> np.ndarray:
    """Returns the points at which profiles are recorded and drawn."""
    return np.linspace(1.0, TAU_MAX, CURVE_POINTS)


def rank(results: Results, axis: str) -> Ranking:
    """Computes all scores of a benchmark.

    Args:
        results: of its trials.
        axis: the cost by which is ranked.
    """
    plan = results.plan
    ranking = Ranking(results, axis, unfinished=results.unfinished())
    labels = ranking.labels
    ranking.refusals = [f"{w}, {labels[name]}: {reason}" for (w, name), reason in results.refusals().items()]
    ranking.failures, ranking.obstacles = results.failures(), find_obstacles(run_environments(results))
    ranking.obstacles += results.inconsistencies()
    held_out = plan.suite.held_out
    counted = [i for i in range(len(plan.suite.workloads)) if i not in held_out]

    def score(times: np.ndarray) -> np.ndarray:
        return benchmark_score(performance_ratios(median_times(times), held_out))

    for name in AXES:
        times = results.times(name)
        medians = ranking.medians[name] = median_times(times)
        ratios = performance_ratios(medians, held_out)
        scores, intervals, profiles = score(times), bootstrap_interval(score, times), profile(ratios, taus())
        speeds = interquartile_mean(relative_speeds(times[:, counted]))
        improvements = improvement_probability(times[:, counted], 0)
        reached = np.isfinite(medians[:, counted]).sum(axis=1)
        ranking.scores[name] = {
            submission.name: Score(
                score=float(scores[i]),
                low=float(intervals[i, 0]),
                high=float(intervals[i, 1]),
                reached=int(reached[i]),
                interquartile_mean=float(speeds[i]),
                improvement=float(improvements[i]),
                profile=profiles[i].round(4).tolist(),
            )
            for i, submission in enumerate(plan.submissions)
        }
    return ranking


def run_environments(results: Results) -> pd.DataFrame:
    """Returns environment.json of each run, a row each, with the workload in a column."""
    rows = {}
    for search in results.plan.searches:
        for trial in results.study(search.workload, search.submission.name, search.study):
            folder = search.folder / trial.run
            rows[shown(folder)] = {**dict(flatten(read_json(folder / ENVIRONMENT))), "workload": search.workload}
    return pd.DataFrame.from_dict(rows, orient="index")


def find_obstacles(environments: pd.DataFrame) -> list[str]:
    """Returns the reasons not to compare runs, from what `run_environments` returns, a line each."""
    lines = [*code_obstacles(code_versions(environments)), *program_obstacles(environments)]
    checksums = data_checksums(environments)
    if not checksums.empty:
        counts = checksums.groupby(environments["workload"].reindex(checksums.index), sort=False).nunique()
        lines += [f"different data in {name}, though its keys are the same" for name in counts.index[counts > 1]]
    return lines


def ranking_as_json(ranking: Ranking) -> dict[str, Any]:
    """Returns the content of benchmark.json; what is not finite, as a missed target, is null there."""
    results, plan = ranking.results, ranking.results.plan
    names = [submission.name for submission in plan.submissions]
    times = {axis: results.times(axis) for axis in AXES}
    return {
        "suite": plan.suite.name,
        "date": date.today().isoformat(),
        "command": plan.typed,
        "ruleset": plan.ruleset,
        "trials": plan.trials,
        "studies": plan.effort.studies,
        "ranked_by": ranking.axis,
        "ranking": ranking.order,
        "unfinished": ranking.unfinished,
        "refusals": ranking.refusals,
        "failures": ranking.failures,
        "obstacles": ranking.obstacles,
        "common": plan.common,
        "submissions": {submission.name: list(submission.overrides) for submission in plan.submissions},
        "labels": ranking.labels,
        "workloads": {name: vars(workload) for name, workload in plan.suite.workloads.items()},
        "targets": plan.suite.targets,
        "taus": taus().round(2).tolist(),
        "scores": {axis: {name: vars(score) for name, score in by.items()} for axis, by in ranking.scores.items()},
        "times": {
            axis: {
                name: {w: times[axis][i, j].tolist() for j, w in enumerate(plan.suite.workloads)}
                for i, name in enumerate(names)
            }
            for axis in AXES
        },
        "trials_of_studies": {
            w: {
                name: [[vars(t) for t in results.study(w, name, study)] for study in range(plan.effort.studies)]
                for name in names
            }
            for w in plan.suite.workloads
        },
    }
