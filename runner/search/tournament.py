"""Hydra's sweeper that tunes every method with the same budget and runs each at its best learning rate."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from ..config.overrides import split_override
from ..config.run_names import as_typed
from ..records.job_table import SEED, read_jobs
from ..sweeps.jobs import configured_overrides, plan_jobs
from ..sweeps.sweeper import extend_plan
from ..system.errors import UserError
from ..system.hydra_compat import parse_overrides, product
from .lr_heuristic import LRHeuristicSweeper, Trial, trial_settings
from .search import Search, TournamentResult, TunedMethod, plural
from .search_report import write_searches
from .search_rule import LRSearchRule
from .tuning_budget import FINAL, FORMER, TRIAL

SAME_FOR_ALL = ("data", "duration")  # keys and sections that are the same for all methods
SEED_KEYS = "hydra.sweeper.seeds=[…] for the final runs, hydra.sweeper.tuning_seeds=[…] for the search"


class TournamentSweeper(LRHeuristicSweeper):
    """Searches a learning rate for each method by the rule of `LRHeuristicSweeper`, then makes the final runs.

    All methods have the same grid, the same seeds and trials of the same length. Where the best learning rate of one
    lies at a boundary of the grid, the grid of all is extended there by an exponent. Whether the budgets were equal
    is read from the runs: see `tuning_budget.unequal_budget`. An optimizer without a learning rate, as it computes it
    itself, has no trials, and final runs as it is.

    Args:
        parameter: the key that is searched.
        base: of the learning rates of stage one.
        exponents: i, of stage one.
        factors: n, of stage two, in the order in which they are tried.
        steps: length of a trial.
        over_last: steps at the end of a trial whose training records count.
        max_extensions: exponents by which the grid may be extended at each end.
        tuning_seeds: of the trials.
        seeds: of the final runs; none of `tuning_seeds`.
        methods: each as overrides with blanks between, in addition to the swept values.
        params: swept values where the command has neither methods nor the key.
    """

    def __init__(
        self,
        parameter: str,
        base: int,
        exponents: Iterable[int],
        factors: Iterable[float],
        steps: int,
        over_last: int,
        max_extensions: int,
        tuning_seeds: Iterable[int],
        seeds: Iterable[int],
        methods: Iterable[str],
        params: dict[str, Any],
    ):
        super().__init__(parameter, base, exponents, factors, steps, over_last)
        del params  # `configured_overrides` reads them from the configuration
        self.max_extensions = max_extensions
        self.tuning_seeds, self.seeds = list(tuning_seeds), list(seeds)
        self.methods = list(methods)

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class from the configuration, checked."""
        settings = super().settings(config)
        for key in ("tuning_seeds", "seeds"):
            if not settings[key] or len(set(settings[key])) < len(settings[key]):
                raise UserError(f"hydra.sweeper.{key}={settings[key]}: must have an element, and none twice")
        both = set(settings["seeds"]) & set(settings["tuning_seeds"])
        if both:
            raise UserError(
                f"hydra.sweeper.seeds={settings['seeds']}: {min(both)} is one of"
                f" hydra.sweeper.tuning_seeds={settings['tuning_seeds']}; final runs need seeds that no trial had"
            )
        return settings

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Returns the jobs of stage one; the final runs are checked too, at the first learning rate.

        Raises:
            UserError: a key of the sweeper has a value that is not allowed, a job cannot be run as it was typed, no
                method has the key that is searched, or two methods are the same.
        """
        sweeper = cls(**cls.settings(config))
        methods = sweeper.new_searches(config)
        lr = methods[0].rule.next_lrs({})[0]
        names: dict[str, str] = {}
        for method in methods:
            (job,) = plan_jobs(config, [method.final_overrides(sweeper.seeds[0], lr)])
            if job["fingerprint"] in names:
                raise UserError(f"{names[job['fingerprint']]} and {method.name}: are the same method")
            names[job["fingerprint"]] = method.name
        return super().first_jobs(config)

    def plan_trials(self, config: DictConfig, trials: list[Trial]) -> list[dict[str, Any]]:
        """Returns the plan of each run of some trials, checked, with its role."""
        methods = {tuple(run): search for search, lr in trials for run in search.overrides(lr)}
        jobs = super().plan_trials(config, trials)
        return [job | trial_role(methods[tuple(job["overrides"])]) for job in jobs]

    def new_searches(self, config: DictConfig) -> list[TunedMethod]:  # type: ignore[override]
        """Returns the methods, with nothing tried yet; UserError where one cannot compete."""
        self.check_length(self.duration)
        trial = trial_settings(self.duration)
        trial_overrides = [f"{key}={value}" for key, value in trial.items()]
        methods: list[TunedMethod] = []
        for name, typed in self.method_overrides(config):
            missing = self.missing_parameter(config, typed)
            if missing is not None and not self.parameter.endswith(".lr"):
                raise UserError(missing)
            others = [o for o in typed if split_override(o)[1] not in trial]
            seeds = self.tuning_seeds if missing is None else []
            runs = [[*others, *trial_overrides, f"{SEED}={seed}"] for seed in seeds]
            settings = (self.parameter, self.rule, runs, self.duration, self.over_last)
            methods.append(TunedMethod(name, *settings, typed=typed, is_tuned=missing is None))
        if not any(method.is_tuned for method in methods):
            raise UserError(str(missing))
        return sorted(methods, key=lambda method: not method.is_tuned)

    def method_overrides(self, config: DictConfig) -> list[tuple[str, list[str]]]:
        """Returns (name, overrides) of each method; the name is the overrides that not all methods have."""
        typed = parse_overrides(as_typed(config.hydra.overrides.task))
        configured = configured_overrides(config)
        if self.methods:
            configured = [o for o in configured if not o.is_sweep_override()]
        everything = {o.get_key_element(): o for o in [*configured, *typed]}
        swept = [o for o in everything.values() if o.is_sweep_override()]
        common = [o for o in everything.values() if not o.is_sweep_override()]
        grids = [swept] if swept or not self.methods else []
        grids += [parse_overrides(shlex.split(text)) for text in self.methods]
        methods = []
        for grid in grids:
            self.check_keys([*common, *grid], grid)
            keys = {o.get_key_element() for o in grid}
            for overrides in product([*common, *grid]):
                name = " ".join(text for text in overrides if text.partition("=")[0] in keys)
                methods.append((name or "all runs", overrides))
        return methods

    def check_keys(self, overrides: list[Override], of_method: list[Override]) -> None:
        """Raises UserError for a seed, and for a key of a method that must be the same for all."""
        for override in overrides:
            if split_override(str(override.input_line))[1] == SEED:
                raise UserError(f"{override.input_line}: a tournament sets the seeds itself; give {SEED_KEYS}")
        for override in of_method:
            key = split_override(str(override.input_line))[1]
            if key.partition(".")[0] in SAME_FOR_ALL:
                raise UserError(f"{override.input_line}: must be the same for all methods of a tournament")

    def sweep(self, arguments: list[str]) -> TournamentResult | None:  # type: ignore[override]
        """Searches the learning rates and makes the final runs; returns the methods, or None if it was stopped."""
        del arguments
        folder = Path(self.sweep_config.hydra.sweep.dir)
        methods = self.new_searches(self.sweep_config)
        tuned = [method for method in methods if method.is_tuned]
        print(f"searching {self.parameter} for {plural(len(tuned), 'method')}", flush=True)
        if not self.search_in_grid(folder, tuned):
            return None
        runs = {
            tuple(method.final_overrides(seed, method.chosen)): method.name
            for method in methods
            if method.chosen is not None or not method.is_tuned
            for seed in self.seeds
        }
        jobs = plan_jobs(self.sweep_config, [list(overrides) for overrides in runs])
        finals = [job | {"role": FINAL, "method": runs[tuple(job["overrides"])]} for job in jobs]
        record_roles(folder, methods, finals)
        print(f"the learning rates are chosen: {plural(len(finals), 'final run')}", flush=True)
        if not self.run_jobs(folder, finals):
            return None
        write_searches(folder, list(tuned))
        return TournamentResult(methods, self.tuning_seeds, self.seeds)

    def search_in_grid(self, folder: Path, methods: list[TunedMethod]) -> bool:
        """Searches, and extends the grid of all where it is too narrow for one; returns whether all searches ended."""
        while self.search(folder, list(methods)):
            rule = self.extended_rule(methods)
            if rule == methods[0].rule:
                return True
            exponents = list(rule.exponents)
            print(f"a best learning rate lies at a boundary of the grid: all get exponents {exponents}", flush=True)
            for method in methods:
                method.rule = rule
                method.outcomes.clear()  # the rule starts anew, as if it had begun with this grid
        return False

    def extended_rule(self, methods: list[TunedMethod]) -> LRSearchRule:
        """Returns the rule with an exponent more at each end where a best learning rate lies, while it is allowed."""
        rule, exponents = methods[0].rule, list(methods[0].rule.exponents)
        ends = [(m.chosen, min(m.losses), max(m.losses)) for m in methods if m.chosen is not None]
        first, last = min(self.rule.exponents), max(self.rule.exponents)
        if any(lr == highest for lr, _, highest in ends) and first - min(exponents) < self.max_extensions:
            exponents.insert(0, min(exponents) - 1)
        if any(lr == lowest for lr, lowest, _ in ends) and max(exponents) - last < self.max_extensions:
            exponents.append(max(exponents) + 1)
        return LRSearchRule(rule.base, tuple(exponents), rule.factors)


def trial_role(method: Search) -> dict[str, Any]:
    """Returns the entries of a method's trials in the plan."""
    return {"role": TRIAL, "method": method.name, "search": method.settings()}


def record_roles(folder: Path, methods: list[TunedMethod], finals: list[dict[str, Any]]) -> None:
    """Writes into the plan which jobs are trials and final runs now, and which are of an earlier command.

    A trial at a learning rate outside of the grid keeps the settings of the search that it was made for.
    """
    by_run = {tuple(run): method for method in methods for run in method.runs}
    jobs = read_jobs(folder)
    for job in jobs:
        *run, last = job["overrides"]
        method = by_run.get(tuple(run))
        if method is not None and float(split_override(last)[2]) in method.rule.all_lrs():
            job.update(trial_role(method))
        elif method is not None:
            job.update(role=TRIAL, method=method.name)
        elif "role" in job:
            job["role"] = FORMER
    extend_plan(folder, [*jobs, *finals])
