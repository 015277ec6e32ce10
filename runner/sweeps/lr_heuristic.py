"""Hydra's sweeper that finds a learning rate by the rule of Zorca 2020, section 4.3.2."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ..config.durations import Duration
from ..config.overrides import split_override
from ..config.run_names import key_of
from ..config.validate import check_value, leaves
from ..records.job_table import PLAN, read_jobs, write_plan
from ..system.errors import UserError, nearest
from ..system.files import read_json
from ..system.lock import folders_being_written
from .interrupt import stop_file
from .jobs import checked_jobs, combinations
from .search import SEED, Search, SearchResult, outcome
from .search_rule import LRSearchRule

WAIT_SECONDS = 1.0  # between looks for trials that another process runs


class LRHeuristicSweeper(Sweeper):
    """Tries base^-i for every exponent i at once, then n * base^-i for the best i, while the loss falls.

    A trial is an ordinary run of the sweep. What is compared is the mean of `total`, the loss with all its terms,
    over the training rows of its last steps; a run that diverges, fails or is killed counts as infinitely bad.
    Every combination of what else is swept has a search of its own, but for the seed: losses are means over seeds.

    Args:
        parameter: the key that is searched.
        base: of the rates of stage one.
        exponents: i, of stage one.
        factors: n, of stage two, in the order in which they are tried.
        steps: length of a trial where no `duration` is typed.
        over_last: steps at the end of a trial whose training rows count.
    """

    def __init__(
        self,
        parameter: str,
        base: int,
        exponents: Iterable[int],
        factors: Iterable[float],
        steps: int,
        over_last: int,
    ):
        self.parameter = parameter
        self.rule = LRSearchRule(base, tuple(exponents), tuple(factors))
        self.duration = f"{steps}steps"
        self.over_last = over_last
        self.launched = 0
        self.ended: set[str] = set()  # folders of jobs that need not be launched again

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Gets the launcher."""
        self.composed = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Returns the jobs of stage one, checked as those of every sweep are; see `sweep.planned_jobs`.

        Raises:
            UserError: a key of the sweeper has no allowed value, or a job cannot be run.
        """
        sweeper = cls(**cls.settings(config))
        return sweeper.checked(config, [(s, r) for s in sweeper.searches(config) for r in s.rule.next_rates({})])

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class, checked."""
        node: dict[Any, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
        found = {str(key): value for key, value in node.items() if key != "_target_"}
        for key, value in found.items():
            check_value(f"hydra.sweeper.{key}", value, f"hydra.sweeper.{key}")
        if not found["exponents"]:
            raise UserError("hydra.sweeper.exponents=[]: must have an element; the thesis has [1,2,3,4,5,6,7]")
        return found

    def checked(self, config: DictConfig, wanted: list[tuple[Search, float]]) -> list[dict[str, Any]]:
        """Returns the jobs of these trials, checked."""
        return checked_jobs(config, [run for search, rate in wanted for run in search.overrides(rate)])

    def sweep(self, arguments: list[str]) -> SearchResult | None:
        """Searches and writes the searches into the sweep's folder; returns them, or None if it was stopped."""
        del arguments
        folder = Path(self.composed.hydra.sweep.dir)
        searches = self.searches(self.composed)
        if not self.search(folder, searches):
            return None
        from .search_report import write_searches

        mark(folder, searches)
        write_searches(folder, searches)
        return SearchResult(searches)

    def search(self, folder: Path, searches: list[Search]) -> bool:
        """Tries what the rule asks for until it asks for nothing more; say whether it came to that."""
        first = [tuple(run) for s in searches for rate in s.rule.next_rates({}) for run in s.overrides(rate)]
        planned = {tuple(job["overrides"]): job for job in read_jobs(folder)}
        jobs = {run: planned[run] for run in first if run in planned}  # these are checked already
        while wanted := [(s, rate) for s in searches for rate in s.rule.next_rates(s.losses)]:
            trials = {(s, rate): [tuple(run) for run in s.overrides(rate)] for s, rate in wanted}
            if any(run not in jobs for runs in trials.values() for run in runs):
                found = self.checked(self.composed, wanted)
                plan_more(folder, found)
                jobs |= {tuple(job["overrides"]): job for job in found}
            if not self.launch(folder, [jobs[run] for runs in trials.values() for run in runs]):
                return False
            for (search, rate), runs in trials.items():
                search.outcomes[rate] = [outcome(folder, jobs[run], self.over_last) for run in runs]
        return True

    def launch(self, folder: Path, jobs: list[dict[str, Any]]) -> bool:
        """Runs those of the jobs that are not done; say whether all have ended, and the search may go on.

        Those that another process runs, as the same command typed twice does, are waited for.
        """
        stopped = stop_file(folder, os.getpid()).exists
        jobs = [job for job in jobs if job["folder"] not in self.ended]
        self.ended |= {job["folder"] for job in jobs}
        while jobs and not stopped():
            for result in self.launcher.launch([job["overrides"] for job in jobs], initial_job_idx=self.launched):
                _ = result.return_value  # raises what the job raised
            self.launched += len(jobs)
            places = {folder / job["folder"]: job for job in jobs}
            elsewhere = folders_being_written(list(places))
            jobs = [places[place] for place in places if place in elsewhere]
            if jobs:
                print(f"waiting for {len(jobs)} of the trials, which another process runs", flush=True)
            while elsewhere and not stopped():
                time.sleep(WAIT_SECONDS)
                elsewhere = folders_being_written(list(elsewhere))
        return not stopped()

    def searches(self, config: DictConfig) -> list[Search]:
        """Returns a search for each combination of what was typed; UserError where there is nothing to search."""
        groups: dict[tuple[str, ...], list[list[str]]] = {}
        for overrides in combinations(config):
            groups.setdefault(tuple(o for o in overrides if key_of(o) != SEED), []).append(overrides)
        common = set.intersection(*map(set, groups))
        found = []
        for group, runs in groups.items():
            self.check_parameter(config, list(group))
            typed = {split_override(o)[1]: split_override(o)[2] for o in group}
            duration = typed.get("duration", self.duration)
            self.check_length(duration)
            ours = trial_settings(duration)
            more = [f"{key}={value}" for key, value in ours.items() if key not in typed]
            name = " ".join(o for o in group if o not in common)
            trial = [[*run, *more] for run in runs]
            found.append(Search(name, self.parameter, self.rule, trial, duration, self.over_last))
        return found

    def check_parameter(self, config: DictConfig, overrides: list[str]) -> None:
        """Raises UserError if the parameter was typed, or is no key of the runs."""
        bare = split_override(self.parameter)[1]
        for override in overrides:
            if split_override(override)[1] == bare:
                raise UserError(f"{override}: is what the sweeper searches; leave it out")
        if self.parameter != bare:  # +optimizer.key, of a class of one's own
            return
        run = GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)
        known = [key for key, _ in leaves(run) if not key.startswith("hydra.")]
        if bare not in known:
            choices = run.hydra.runtime.choices
            group = bare.partition(".")[0]
            where = f"{group}={choices[group]} has no such key" if group in choices else "there is no such key"
            raise UserError(f"hydra.sweeper.parameter={bare}: {where}{nearest(bare, known)}")

    def check_length(self, duration: str) -> None:
        """Raises UserError if a trial is shorter than its part that counts."""
        length = Duration.parse(duration)
        if length.unit == "steps" and self.over_last > length.amount:
            raise UserError(f"hydra.sweeper.over_last={self.over_last}: must be at most the {duration} of a trial")


def trial_settings(duration: str) -> dict[str, str]:
    """Returns what a trial of a length has by itself: all its steps on record, and evaluations at its ends only."""
    return {"duration": duration, "evaluate_every": duration, "log_every": "1steps"}


def plan_more(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Adds jobs to the plan of a sweep."""
    plan = read_json(folder / PLAN)
    write_plan(folder, plan["overrides"], jobs, plan["workers"])


def mark(folder: Path, searches: list[Search]) -> None:
    """Writes into the plan how each of its runs was searched for; also those of an earlier, narrower grid."""
    jobs = read_jobs(folder)
    for search in searches:
        for job in jobs:
            if job["overrides"][:-1] in search.runs:
                job["search"] = search.described()
    plan_more(folder, jobs)
