"""The results of a benchmark's trials: what each cost until it reached the target. Needs no torch."""

from dataclasses import dataclass, field
from math import ceil, inf, isfinite
from pathlib import Path

import numpy as np

from ..config.overrides import split_override
from ..records.consistency import inconsistency
from ..records.job_table import ENDED, SEED
from ..records.metrics import METRICS_FILE, Record, parse_records, read_metrics
from ..records.run_folder import CONFIG, ENVIRONMENT, flatten, load_config, read_summary
from ..system.errors import UserError
from ..system.files import read_json, shown
from .plan import BenchmarkPlan, Search
from .suite import Workload

AXES = {"gradients": "gradient_equivalents", "steps": "step", "seconds": "train_seconds"}  # keys of records, by cost
TARGET_FRACTION = 0.75  # of the budget, within which a baseline reaches a target
TARGET_SHARE = 0.25  # of the trials of a study, which reach it


@dataclass
class TrialResult:
    """The result of a trial.

    Attributes:
        run: its folder, relative to that of the search.
        state: as in the job table.
        refusal: the reason why a run with this configuration cannot begin, in one line; empty: it can.
        point: of the search space, as overrides.
        cost: until the target, by the name of AXES; infinite where it was missed.
        curve: (step, metric) of the evaluations; a metric that is not finite is left out.
        steps: of the whole run.
        error: of a run that failed, in one line.
        inconsistency: a line that says in which the files of the run do not agree; empty: they agree.
    """

    run: str
    state: str
    point: list[str]
    cost: dict[str, float]
    curve: list[tuple[int, float]] = field(default_factory=list)
    steps: int = 0
    refusal: str = ""
    error: str = ""
    inconsistency: str = ""


def read_trials(search: Search, workload: Workload) -> list[TrialResult]:
    """Returns the results of the trials of a search; those that have not begun are left out."""
    results = []
    for job, state in zip(search.jobs(), search.states(), strict=False):
        folder = search.folder / job["folder"]
        point = [o for o in job["overrides"] if o not in search.overrides and split_override(o)[1] != SEED]
        summary = read_summary(folder) if state == "failed" else {}
        refusal = summary["error"] if summary.get("refused") else ""
        result = TrialResult(job["folder"], state, point, dict.fromkeys(AXES, inf), refusal=refusal)
        result.error = summary.get("error") or ""
        path = folder / METRICS_FILE
        if path.exists():
            try:
                if state in ENDED:
                    records = read_metrics(folder)
                else:  # the last record may be incomplete
                    records, _ = parse_records(path.read_bytes(), path.name)
            except (OSError, ValueError) as error:
                raise UserError(f"{shown(path)}: is damaged; remove the folder") from error
            add_records(result, records, workload)
            if state in ENDED:
                result.inconsistency = inconsistency_of(folder, records)
        results.append(result)
    return results


def inconsistency_of(folder: Path, records: list[Record]) -> str:
    """Returns a line that says in which the files of a run that has ended do not agree; empty: they agree."""
    try:
        config, choices = load_config(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(folder / CONFIG)}: is damaged; remove the folder") from error
    environment = read_json(folder / ENVIRONMENT)
    text = inconsistency(read_summary(folder), dict(flatten(config)), choices, environment, records)
    return f"{shown(folder)} {text}" if text else ""


def add_records(result: TrialResult, records: list[Record], workload: Workload) -> None:
    """Adds to a result what the records of its run say.

    Args:
        result: is changed.
        records: of the run.
        workload: says what the target is.

    Raises:
        UserError: the run has no such metric.
    """
    kind, name = workload.record
    rows = [record for record in records if record["kind"] == kind]
    if rows and name not in rows[0]:
        known = ", ".join(key for key, value in rows[0].items() if isinstance(value, float))
        raise UserError(f"{workload.metric}: the runs have no such metric; their {kind} records have {known}")
    result.steps = max((record["step"] for record in records), default=0)
    for row in rows:
        value = row[name]
        if value is None or not isfinite(value):
            continue
        result.curve.append((row["step"], value))
        if workload.target is not None and result.cost["steps"] == inf and workload.is_better(value, workload.target):
            result.cost = {axis: float(row[key]) for axis, key in AXES.items()}


@dataclass
class Results:
    """The results of a benchmark.

    Attributes:
        plan: of its searches.
        trials: of each search, by workload, submission and study.
    """

    plan: BenchmarkPlan
    trials: dict[tuple[str, str, int], list[TrialResult]]

    def study(self, workload: str, submission: str, study: int) -> list[TrialResult]:
        """Returns the trials of a search."""
        return self.trials[workload, submission, study]

    def times(self, axis: str) -> np.ndarray:
        """Returns the cost of the best trial of each study, (submissions, workloads, studies)."""
        studies = range(self.plan.effort.studies)
        return np.array(
            [
                [
                    [min((t.cost[axis] for t in self.study(w, s.name, k)), default=inf) for k in studies]
                    for w in self.plan.suite.workloads
                ]
                for s in self.plan.submissions
            ]
        )

    def best_trials(self, workload: str, submission: str, axis: str) -> list[TrialResult | None]:
        """Returns the trial of each study that reached the target first; None where none did."""
        best = []
        for study in range(self.plan.effort.studies):
            hits = [t for t in self.study(workload, submission, study) if isfinite(t.cost[axis])]
            best.append(min(hits, key=lambda trial: trial.cost[axis], default=None))
        return best

    def refusals(self) -> dict[tuple[str, str], str]:
        """Returns the reason, by workload and submission, where no trial of any study can begin with these two."""
        reasons = {}
        for workload in self.plan.suite.workloads:
            for submission in self.plan.submissions:
                searches = [self.study(workload, submission.name, k) for k in range(self.plan.effort.studies)]
                trials = [trial for search in searches for trial in search]
                if all(searches) and all(trial.refusal for trial in trials):
                    reasons[workload, submission.name] = trials[0].refusal
        return reasons

    def refused_everywhere(self) -> list[str]:
        """Returns the labels of the submissions that no workload takes."""
        refusals = self.refusals()
        return [
            s.label for s in self.plan.submissions if all((w, s.name) in refusals for w in self.plan.suite.workloads)
        ]

    def unfinished(self) -> list[str]:
        """Returns a line for each search with trials that have not ended, though its workload takes the submission.

        A trial that failed has ended, unless all of the search have: then something else is wrong.
        """
        lines, refusals = [], self.refusals()
        for search in self.plan.searches:
            if (search.workload, search.submission.name) in refusals:
                continue
            states = [trial.state for trial in self.study(search.workload, search.submission.name, search.study)]
            states += ["missing"] * (search.trials - len(states))
            rest = [state for state in states if state not in (*ENDED, "failed")]
            rest = rest or (states if set(states) == {"failed"} else [])
            if rest:
                where = f"{search.workload}, {search.submission.label}, study {search.study}"
                lines.append(f"{where}: of {len(states)} trials {len(rest)} {rest[0]}")
        return lines

    def inconsistencies(self) -> list[str]:
        """Returns a line for each run whose files do not agree."""
        return [trial.inconsistency for trials in self.trials.values() for trial in trials if trial.inconsistency]

    def failures(self) -> list[str]:
        """Returns a line for each search of whose trials some failed, but not all."""
        lines = []
        for search in self.plan.searches:
            trials = self.study(search.workload, search.submission.name, search.study)
            failed = [trial for trial in trials if trial.state == "failed"]
            if 0 < len(failed) < len(trials):
                reason = next(filter(None, (trial.refusal or trial.error for trial in failed)), "no reason is known")
                number = f"{len(failed)} of {len(trials)} trials"
                where = f"{search.workload}, {search.submission.label}, study {search.study}"
                lines.append(f"{where}: {number}: {reason}")
        return lines


def read_results(plan: BenchmarkPlan) -> Results:
    """Reads the records of all trials of a benchmark."""
    workloads = plan.suite.workloads
    trials = {(s.workload, s.submission.name, s.study): read_trials(s, workloads[s.workload]) for s in plan.searches}
    return Results(plan, trials)


def find_target(results: Results, name: str) -> float | None:
    """Returns the target of a workload by the rule for targets; None where no trial has a metric.

    The submissions are the baselines. Of each trial the best value within the first three quarters of its steps counts;
    of a study what a quarter of its trials reach; of a baseline the median over studies; and the target is that of the
    best baseline, rounded to four digits. The best trial of many would be an extreme, which luck alone may reach.
    """
    workload = results.plan.suite.workloads[name]
    best = max if workload.direction == "maximize" else min
    values = []
    for submission in results.plan.submissions:
        by_study = []
        for study in range(results.plan.effort.studies):
            curves = [(t.curve, TARGET_FRACTION * t.steps) for t in results.study(name, submission.name, study)]
            within = [[value for step, value in curve if step <= end] for curve, end in curves]
            trials = sorted((best(w) for w in within if w), reverse=best is max)
            by_study += trials[ceil(len(curves) * TARGET_SHARE) - 1 :][:1]
        values += [float(np.median(by_study))] if by_study else []
    return float(f"{best(values):.4g}") if values else None
