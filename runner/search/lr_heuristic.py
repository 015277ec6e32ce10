"""Hydra's sweeper that searches a learning rate by the rule of Zorca 2020, section 4.3.2."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..config.durations import Duration
from ..config.overrides import split_override
from ..config.run_names import key_of
from ..config.validate import leaves
from ..records.job_table import SEED, read_jobs
from ..sweeps.jobs import combinations, composed, plan_jobs
from ..sweeps.sweeper import SearchSweeper, extend_plan
from ..system.errors import UserError, nearest
from .search import Search, SearchResult, read_outcome
from .search_report import write_searches
from .search_rule import LRSearchRule

Trial = tuple[Search, float]  # a search and the learning rate that it tries


class LRHeuristicSweeper(SearchSweeper):
    """Tries base^-i for every exponent i at once, then n * base^-i for the best i, while the loss falls.

    A trial is an ordinary run of the sweep. Trials are compared by the mean of `total`, the loss with all its terms,
    over the training records of their last steps; that of a run that diverges, fails or is killed is infinite. Each
    combination of the other swept values has a search of its own, but for the seed: losses are means over the seeds.

    Args:
        parameter: the key that is searched.
        base: of the learning rates of stage one.
        exponents: i, of stage one.
        factors: n, of stage two, in the order in which they are tried.
        steps: length of a trial where the command has no `duration`.
        over_last: steps at the end of a trial whose training records count.
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
        super().__init__()
        self.parameter = parameter
        self.rule = LRSearchRule(base, tuple(exponents), tuple(factors))
        self.duration = f"{steps}steps"
        self.over_last = over_last

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Returns the jobs of stage one, as `plan_jobs` does.

        Raises:
            UserError: a key of the sweeper has a value that is not allowed, or a job cannot be run as it was typed.
        """
        sweeper = cls(**cls.settings(config))
        searches = sweeper.new_searches(config)
        return sweeper.plan_trials(config, [(search, lr) for search in searches for lr in search.rule.next_lrs({})])

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class from the configuration, checked."""
        settings = super().settings(config)
        if not settings["exponents"]:
            raise UserError("hydra.sweeper.exponents=[]: must not be empty; the thesis has [1,2,3,4,5,6,7]")
        return settings

    def plan_trials(self, config: DictConfig, trials: list[Trial]) -> list[dict[str, Any]]:
        """Returns the plan of each run of some trials, checked."""
        return plan_jobs(config, [run for search, lr in trials for run in search.overrides(lr)])

    def find_best(self) -> SearchResult | None:
        """Searches and writes the results into the sweep's folder; returns them, or None if it was stopped."""
        folder = Path(self.sweep_config.hydra.sweep.dir)
        searches = self.new_searches(self.sweep_config)
        if not self.search(folder, searches):
            return None
        record_settings(folder, searches)
        write_searches(folder, searches)
        return SearchResult(searches)

    def search(self, folder: Path, searches: list[Search]) -> bool:
        """Runs trials until the rule asks for no more; returns whether it came to that."""
        first = [tuple(run) for s in searches for lr in s.rule.next_lrs({}) for run in s.overrides(lr)]
        planned = {tuple(job["overrides"]): job for job in read_jobs(folder)}
        jobs = {run: planned[run] for run in first if run in planned}  # these are checked already
        while trials := [(s, lr) for s in searches for lr in s.rule.next_lrs(s.losses)]:
            runs = {(s, lr): [tuple(run) for run in s.overrides(lr)] for s, lr in trials}
            unplanned = [trial for trial in trials if any(run not in jobs for run in runs[trial])]
            if unplanned:
                new = self.plan_trials(self.sweep_config, unplanned)
                extend_plan(folder, new)
                jobs |= {tuple(job["overrides"]): job for job in new}
            if not self.run_jobs(folder, [jobs[run] for trial in trials for run in runs[trial]]):
                return False
            for search, lr in trials:
                outcomes = [read_outcome(folder, jobs[run], self.over_last) for run in runs[search, lr]]
                search.outcomes[lr] = outcomes
        return True

    def new_searches(self, config: DictConfig) -> list[Search]:
        """Returns a search for each combination of the swept values; UserError where there is nothing to search."""
        groups: dict[tuple[str, ...], list[list[str]]] = {}
        for overrides in combinations(config):
            groups.setdefault(tuple(o for o in overrides if key_of(o) != SEED), []).append(overrides)
        common = set.intersection(*map(set, groups))
        searches = []
        for group, runs in groups.items():
            self.check_parameter(config, list(group))
            typed = {split_override(o)[1]: split_override(o)[2] for o in group}
            duration = typed.get("duration", self.duration)
            self.check_length(duration)
            defaults = [f"{key}={value}" for key, value in trial_settings(duration).items() if key not in typed]
            name = " ".join(o for o in group if o not in common)
            trial = [[*run, *defaults] for run in runs]
            searches.append(Search(name, self.parameter, self.rule, trial, duration, self.over_last))
        return searches

    def check_parameter(self, config: DictConfig, overrides: list[str]) -> None:
        """Raises UserError if the searched parameter was typed, or is no key of the runs."""
        missing = self.missing_parameter(config, overrides)
        if missing is not None:
            raise UserError(missing)

    def missing_parameter(self, config: DictConfig, overrides: list[str]) -> str | None:
        """Returns the line that says that the searched parameter is no key of the runs; None where it is one.

        Raises:
            UserError: the parameter was typed.
        """
        bare = split_override(self.parameter)[1]
        for override in overrides:
            if split_override(override)[1] == bare:
                raise UserError(f"{override}: is what the sweeper searches; leave it out")
        if self.parameter != bare:  # +optimizer.key, of a class of the user
            return None
        run = composed(config, overrides)
        known = [key for key, _ in leaves(run) if not key.startswith("hydra.")]
        if bare in known:
            return None
        choices = run.hydra.runtime.choices
        group = bare.partition(".")[0]
        where = f"{group}={choices[group]} has no such key" if group in choices else "there is no such key"
        return f"hydra.sweeper.parameter={bare}: {where}{nearest(bare, known)}"

    def check_length(self, duration: str) -> None:
        """Raises UserError if a trial is shorter than the part of it that counts, or as long as a time."""
        length = Duration.parse(duration)
        if length.unit == "seconds":
            raise UserError(
                f"duration={duration}: the rule compares losses after equal numbers of steps; give epochs or steps, or"
                " search by trials (hydra/sweeper=optuna, or hydra.sweeper.search=random of a tournament)"
            )
        if length.unit == "steps" and self.over_last > length.amount:
            raise UserError(f"hydra.sweeper.over_last={self.over_last}: must be at most the {duration} of a trial")


def trial_settings(duration: str) -> dict[str, str]:
    """Returns the settings of a trial: every step is logged; only its start and its end are evaluated."""
    return {"duration": duration, "evaluate_every": duration, "log_every": "1steps"}


def record_settings(folder: Path, searches: list[Search]) -> None:
    """Adds the settings of its search to each job in the plan, also to those of an earlier, narrower grid."""
    jobs = read_jobs(folder)
    for search in searches:
        for job in jobs:
            if job["overrides"][:-1] in search.runs:
                job["search"] = search.settings()
    extend_plan(folder, jobs)
