"""Runs the trials of a search: to their rungs and to their ends, whatever becomes of a process."""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from optuna.trial import FrozenTrial, Trial, TrialState

from ..config.durations import Duration
from ..config.overrides import split_override
from ..config.run_names import as_typed
from ..records.job_table import SEED, job_status, read_jobs
from ..records.run_folder import mark_pruned
from ..sweeps.jobs import check_planned, composed, configured_overrides, plan_jobs
from ..sweeps.plan_job import JobPlanner
from ..sweeps.sweeper import POLL_SECONDS, extend_plan
from ..system.errors import UserError
from ..system.hydra_compat import parse_overrides, product
from ..system.lock import RunLock, living_locks
from .declared import declared_overrides
from .metric import MetricName, direction_of, metric_value
from .space import Space, corners, override_of, read_space
from .study import SEARCHER, STUDY_NAME, SearchStudy, StudySettings

VALIDATION = "data.validation=0.1"  # where a search needs a validation set and none is configured


@dataclass(eq=False)
class RunningTrial:
    """A trial that this process runs.

    Attributes:
        trial: of the study.
        jobs: its runs in the plan, one for each seed.
        rungs: after how many evaluations it may still be pruned, increasing.
    """

    trial: Trial
    jobs: list[dict[str, Any]]
    rungs: list[int] = field(default_factory=list)


class Searcher(Protocol):
    """What a sweeper runs jobs with."""

    ended: set[str]

    def run_jobs(self, folder: Path, jobs: list[dict[str, Any]]) -> bool:
        """Runs those of the jobs that are not done; returns whether all have ended and none was told to stop."""


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes on.

    Attributes:
        n_trials: how many trials end.
        sampler: random, qmc, tpe or cmaes.
        metric: by which trials are compared.
        direction: minimize or maximize; None: as the metric's class says.
        seed: of the sampler.
        pruner: none, median, hyperband or asha.
        reduction_factor: of hyperband and asha.
    """

    n_trials: int
    sampler: str
    metric: MetricName
    direction: str | None
    seed: int
    pruner: str = "none"
    reduction_factor: int = 3


class TrialSearch:
    """The search of one space.

    Args:
        config: of the sweep.
        searcher: runs the jobs.
        options: of the search.
        space: what is searched.
        runs: the other overrides of a trial's runs, a list for each seed.
        name: of the study, where a sweep has several.
        entries: of the plan, which the jobs of this search alone have.

    Attributes:
        study: of the search; there is none before `run`.

    Raises:
        UserError: nothing says whether the metric is to minimize or to maximize.
    """

    study: SearchStudy

    def __init__(
        self,
        config: DictConfig,
        searcher: Searcher,
        options: SearchOptions,
        space: Space,
        runs: list[list[str]],
        name: str = STUDY_NAME,
        entries: Mapping[str, Any] | None = None,
    ):
        self.config, self.searcher, self.options, self.space = config, searcher, options, space
        self.name, self.entries = name, dict(entries or {})
        self.folder = Path(config.hydra.sweep.dir)
        self._composed = composed(config, runs[0])
        needs_validation = options.metric.kind == "validation" and not self._composed.data.validation
        self.runs = [[*run, VALIDATION] for run in runs] if needs_validation else runs
        self.direction = options.direction or direction_of(options.metric, self._composed)

    @property
    def note(self) -> str | None:
        """A line about the set on which trials are compared, where there is something to say."""
        if VALIDATION in self.runs[0]:
            return f"trials are compared on a validation set: {VALIDATION}"
        if self.options.metric.kind == "test":
            return f"note: {self.options.metric} chooses on the test set, whose metrics are then too good"
        return None

    def check(self) -> None:
        """Raises UserError where a run cannot begin with a bound or a choice of the space, or former trials differ."""
        plan_jobs(self.config, [[*self.runs[0], *point_overrides(point)] for point in corners(self.space)])
        check_planned(JobPlanner(self.config), self.folder, self.jobs())
        self._evaluations()

    def _evaluations(self) -> int:
        """Returns after how many evaluations a run ends; 0 where that depends on the data, and nothing is pruned."""
        run = self._composed
        length, every = Duration.parse(run.duration), Duration.parse(run.evaluate_every)
        if length.unit == every.unit:
            return math.ceil(length.amount / every.amount)
        if self.options.pruner == "none":
            return 0
        if length.unit == "seconds":
            raise UserError(
                f"hydra.sweeper.pruner={self.options.pruner}: compares trials after equal numbers of steps, and"
                f" duration={run.duration} is a time; give hydra.sweeper.pruner=none, or epochs or steps"
            )
        raise UserError(
            f"hydra.sweeper.pruner={self.options.pruner}: decides at evaluations; give duration and evaluate_every the"
            f" same unit (they are {run.duration} and {run.evaluate_every})"
        )

    def run(self) -> bool:
        """Runs trials until there are enough; returns whether it came to that."""
        options = self.options
        settings = StudySettings(
            sampler=options.sampler,
            pruner=options.pruner,
            reduction_factor=options.reduction_factor,
            metric=str(options.metric),
            direction=self.direction,
            seed=options.seed,
            evaluations=self._evaluations(),
        )
        self.study = SearchStudy(self.folder, settings, self.space, self.name)
        with SearcherLock(self.folder) as lock:
            failed = [trial for trial in self.study.trials() if trial.state == TrialState.FAIL]
            return self._search(lock.name, failed)

    def wait(self) -> bool:
        """Waits for the trials that other processes run, and goes on with those whose process is gone.

        Returns:
            Whether all trials have ended.
        """
        is_announced = False
        while number := sum(trial.state == TrialState.RUNNING for trial in self.study.trials()):
            if not is_announced:
                print(f"waiting for trials that other processes run: {number}", flush=True)
            is_announced = True
            if not self.searcher.run_jobs(self.folder, []):
                return False
            time.sleep(POLL_SECONDS)
            with SearcherLock(self.folder) as lock:
                if not self._search(lock.name, []):
                    return False
        return True

    def jobs(self) -> list[dict[str, Any]]:
        """Returns the runs of all trials in the plan of the sweep."""
        jobs = [job for job in read_jobs(self.folder) if "trial" in job]
        return [job for job in jobs if all(job.get(key) == value for key, value in self.entries.items())]

    def _search(self, searcher: str, failed: list[FrozenTrial]) -> bool:
        """Runs trials, as many at a time as the launcher has workers; returns whether enough have ended.

        Args:
            searcher: this process.
            failed: trials that are tried again.
        """
        workers = self.config.hydra.launcher.get("n_jobs", 1)
        slots = max(1, workers // len(self.runs))
        active = [self._begin(trial) for trial in adopt_orphans(self.folder, self.study, searcher)]
        while True:
            while len(active) < slots and (trial := self.study.next_trial(searcher, self.options.n_trials, failed)):
                active.append(self._begin(trial))
            if not active:
                return True
            if not self._run_to_rungs(active):
                return False
            active = [running for running in active if not self._has_ended(running)]

    def _begin(self, trial: Trial) -> RunningTrial:
        """Plans the runs of a trial."""
        point = point_overrides(trial.params)
        jobs = plan_jobs(self.config, [[*run, *point] for run in self.runs])
        entries = self.entries | {"trial": trial.number, "searched": list(self.space)}
        jobs = [job | entries for job in jobs]
        return RunningTrial(trial, jobs, self.study.settings.rungs())

    def _run_to_rungs(self, active: list[RunningTrial]) -> bool:
        """Runs every trial to its next rung or its end; returns whether none was told to stop."""
        for running in active:
            for job in running.jobs:
                job["pause_after"] = running.rungs[0] if running.rungs else None
        jobs = [job for running in active for job in running.jobs]
        extend_plan(self.folder, jobs)
        self.searcher.ended -= {job["folder"] for job in jobs}
        return self.searcher.run_jobs(self.folder, jobs)

    def _has_ended(self, running: RunningTrial) -> bool:
        """Tells the study what became of a trial; returns whether it has ended."""
        worst = math.inf if self.direction == "minimize" else -math.inf
        states = {job["folder"]: job_status(self.folder, job["folder"], job, alive=False).state for job in running.jobs}
        if set(states.values()) - {"done", "diverged", "paused", "pruned"}:
            self.study.tell(running.trial, TrialState.FAIL)
            return True
        if "diverged" in states.values():
            self.study.tell(running.trial, TrialState.COMPLETE, worst)
            return True
        rung = running.rungs.pop(0) if {"paused", "pruned"} & set(states.values()) else None
        values = [metric_value(self.folder / run, self.options.metric, rung) for run in states]
        value = sum(values) / len(values)
        value = worst if math.isnan(value) else value
        if rung is None:
            self.study.tell(running.trial, TrialState.COMPLETE, value)
            return True
        if not self.study.prunes(running.trial, value, rung):
            return False
        for run, state in states.items():
            if state == "paused":
                mark_pruned(self.folder / run)
        self.study.tell(running.trial, TrialState.PRUNED)
        return True


class SearcherLock(RunLock):
    """Shows while entered that this process works on a search.

    Args:
        folder: of the sweep.
    """

    def __init__(self, folder: Path):
        self.name = f"searcher-{os.getpid()}-{os.urandom(3).hex()}"
        super().__init__(folder)


def adopt_orphans(folder: Path, study: SearchStudy, searcher: str) -> list[Trial]:
    """Returns the running trials whose process is gone; they are now this process's."""
    alive = {lock.name for lock in living_locks(list(folder.glob("searcher-*")))}
    for lock in folder.glob("searcher-*"):
        if lock.name not in alive:
            lock.unlink(missing_ok=True)
    running = [trial for trial in study.trials() if trial.state == TrialState.RUNNING]
    adopted = [study.trial(trial._trial_id) for trial in running if trial.user_attrs.get(SEARCHER) not in alive]
    for trial in adopted:
        trial.set_user_attr(SEARCHER, searcher)
    return adopted


def point_overrides(point: dict[str, Any]) -> list[str]:
    """Returns the overrides that give each key its value at a point of a space."""
    return [override_of(key, value) for key, value in point.items()]


def declared_space(config: DictConfig, overrides: list[str]) -> Space:
    """Returns the search space of the optimizer of a run, without the keys that its overrides have."""
    keys = {split_override(override)[1] for override in overrides}
    declared = parse_overrides(declared_overrides(composed(config, overrides)))
    return read_space([override for override in declared if override.get_key_element() not in keys])


def typed_search(config: DictConfig, searcher: Searcher, options: SearchOptions) -> TrialSearch:
    """Returns the search that a command types: of the keys that it leaves open, or of the space of its optimizer."""
    typed = parse_overrides(as_typed(config.hydra.overrides.task))
    by_key: dict[str, Override] = {o.get_key_element(): o for o in [*configured_overrides(config), *typed]}
    searched = [o for key, o in by_key.items() if o.is_sweep_override() and key.lstrip("+") != SEED]
    runs = product([o for o in by_key.values() if o not in searched])
    return TrialSearch(config, searcher, options, read_space(searched) or declared_space(config, runs[0]), runs)
