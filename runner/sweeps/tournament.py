"""Hydra's sweeper that tunes every method with the same effort, runs each at the rate found, and compares."""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from ..config.overrides import split_override
from ..config.run_names import as_typed
from ..records.job_table import read_jobs
from ..system.errors import UserError
from ..system.hydra_compat import parse_overrides, product
from .jobs import checked_jobs, swept_by_config
from .lr_heuristic import LRHeuristicSweeper, plan_more, trial_settings
from .search import SEED, Search, TournamentResult, TunedMethod, plural
from .search_rule import LRSearchRule
from .tuning_budget import FINAL, FORMER, TRIAL

SAME_FOR_ALL = ("data", "duration")  # keys, and sections, that no method has of its own
KEYS = "hydra.sweeper.seeds=[…] for the final runs, hydra.sweeper.tuning_seeds=[…] for the search"


class TournamentSweeper(LRHeuristicSweeper):
    """Finds a rate for each method by the rule of `LRHeuristicSweeper`, then runs and compares the methods.

    All methods have the same grid, the same seeds and trials of the same length. Where the best rate of one lies
    at an end of the grid, the grid of all grows there by an exponent. What becomes of the runs decides whether
    there is a table: see `budget.unequal_budget`.

    Args:
        parameter: the key that is searched.
        base: of the rates of stage one.
        exponents: i, of stage one.
        factors: n, of stage two, in the order in which they are tried.
        steps: length of a trial.
        over_last: steps at the end of a trial whose training rows count.
        widen: how many exponents the grid may get more at each end.
        tuning_seeds: of the trials.
        seeds: of the final runs; none of `tuning_seeds`.
        methods: each as overrides with blanks between; beside what is swept.
        params: what is swept where neither methods nor the key is typed.
    """

    def __init__(
        self,
        parameter: str,
        base: int,
        exponents: Iterable[int],
        factors: Iterable[float],
        steps: int,
        over_last: int,
        widen: int,
        tuning_seeds: Iterable[int],
        seeds: Iterable[int],
        methods: Iterable[str],
        params: dict[str, Any],
    ):
        super().__init__(parameter, base, exponents, factors, steps, over_last)
        del params  # read where the jobs of any sweep are: from the configuration
        self.widen = widen
        self.tuning_seeds, self.seeds = list(tuning_seeds), list(seeds)
        self.methods = list(methods)

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class, checked."""
        found = super().settings(config)
        for key in ("tuning_seeds", "seeds"):
            if not found[key] or len(set(found[key])) < len(found[key]):
                raise UserError(f"hydra.sweeper.{key}={found[key]}: must have an element, and none twice")
        both = set(found["seeds"]) & set(found["tuning_seeds"])
        if both:
            raise UserError(
                f"hydra.sweeper.seeds={found['seeds']}: {min(both)} is one of"
                f" hydra.sweeper.tuning_seeds={found['tuning_seeds']}; final runs need seeds that no trial had"
            )
        return found

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Returns the jobs of stage one, checked; the final runs are checked, too, at the first rate.

        Raises:
            UserError: a key of the sweeper has no allowed value, a job cannot be run, or two methods are the same.
        """
        sweeper = cls(**cls.settings(config))
        methods = sweeper.searches(config)
        rate = methods[0].rule.next_rates({})[0]
        finals = [checked_jobs(config, [m.final(sweeper.seeds[0], rate)])[0] for m in methods]
        names: dict[str, str] = {}
        for method, job in zip(methods, finals, strict=True):
            if job["fingerprint"] in names:
                raise UserError(f"{names[job['fingerprint']]} and {method.name}: are the same method")
            names[job["fingerprint"]] = method.name
        return super().first_jobs(config)

    def checked(self, config: DictConfig, wanted: list[tuple[Search, float]]) -> list[dict[str, Any]]:
        """Returns the jobs of these trials, checked, and marked as such."""
        of = {tuple(run): search for search, rate in wanted for run in search.overrides(rate)}
        jobs = super().checked(config, wanted)
        return [job | trial_mark(of[tuple(job["overrides"])]) for job in jobs]

    def searches(self, config: DictConfig) -> list[TunedMethod]:  # type: ignore[override]
        """Returns the methods, with nothing tried yet; UserError where one cannot compete."""
        self.check_length(self.duration)
        trial = trial_settings(self.duration)
        found = []
        for name, typed in self.named(config):
            self.check_parameter(config, typed)
            kept = [o for o in typed if split_override(o)[1] not in trial]
            more = [f"{key}={value}" for key, value in trial.items()]
            runs = [[*kept, *more, f"{SEED}={seed}"] for seed in self.tuning_seeds]
            settings = (self.parameter, self.rule, runs, self.duration, self.over_last)
            found.append(TunedMethod(name, *settings, typed=typed))
        return found

    def named(self, config: DictConfig) -> list[tuple[str, list[str]]]:
        """Returns (name, overrides) of each method; the name is what is its own."""
        typed = parse_overrides(as_typed(config.hydra.overrides.task))
        given = swept_by_config(config)
        if self.methods:
            given = [o for o in given if not o.is_sweep_override()]
        everything = {o.get_key_element(): o for o in [*given, *typed]}
        swept = [o for o in everything.values() if o.is_sweep_override()]
        common = [o for o in everything.values() if not o.is_sweep_override()]
        fields = [(common, swept)] if swept or not self.methods else []
        fields += [(common, parse_overrides(shlex.split(text))) for text in self.methods]
        found = []
        for shared, own in fields:
            self.check_keys([*shared, *own], own)
            keys = {o.get_key_element() for o in own}
            for overrides in product([*shared, *own]):
                name = " ".join(text for text in overrides if text.partition("=")[0] in keys)
                found.append((name or "all runs", overrides))
        return found

    def check_keys(self, overrides: list[Override], own: list[Override]) -> None:
        """Raises UserError for a seed, and for what has to be the same for all methods."""
        for override in overrides:
            if split_override(str(override.input_line))[1] == SEED:
                raise UserError(f"{override.input_line}: a tournament sets the seeds itself; give {KEYS}")
        for override in own:
            key = split_override(str(override.input_line))[1]
            if key.partition(".")[0] in SAME_FOR_ALL:
                raise UserError(f"{override.input_line}: must be the same for all methods of a tournament")

    def sweep(self, arguments: list[str]) -> TournamentResult | None:  # type: ignore[override]
        """Searches the learning rates and runs the methods; returns these, or None if it was stopped."""
        del arguments
        folder = Path(self.composed.hydra.sweep.dir)
        methods = self.searches(self.composed)
        print(f"searching {self.parameter} for {plural(len(methods), 'method')}", flush=True)
        if not self.search_all(folder, methods):
            return None
        batch = {tuple(m.final(seed, m.chosen)): m for m in methods if m.chosen is not None for seed in self.seeds}
        jobs = checked_jobs(self.composed, [list(overrides) for overrides in batch])
        finals = [job | {"role": FINAL, "method": batch[tuple(job["overrides"])].name} for job in jobs]
        mark(folder, methods, finals)
        print(f"the rates are found: {plural(len(finals), 'final run')}", flush=True)
        if not self.launch(folder, finals):
            return None
        from .search_report import write_searches

        write_searches(folder, list(methods))
        return TournamentResult(methods, self.tuning_seeds, self.seeds)

    def search_all(self, folder: Path, methods: list[TunedMethod]) -> bool:
        """Searches, with a wider grid for all where it is too narrow for one; say whether all came to its end."""
        while self.search(folder, list(methods)):
            rule = self.wider(methods)
            if rule == methods[0].rule:
                return True
            print(f"a best rate lies at the end of the grid: all get exponents {list(rule.exponents)}", flush=True)
            for method in methods:
                method.rule = rule
                method.outcomes.clear()  # the rule is asked anew, as if it had begun with this grid
        return False

    def wider(self, methods: list[TunedMethod]) -> LRSearchRule:
        """Returns the rule with an exponent more at each end where a best rate lies, while that is allowed."""
        rule, exponents = methods[0].rule, list(methods[0].rule.exponents)
        ends = [(m.chosen, min(m.losses), max(m.losses)) for m in methods if m.chosen is not None]
        first, last = min(self.rule.exponents), max(self.rule.exponents)
        if any(rate == highest for rate, _, highest in ends) and first - min(exponents) < self.widen:
            exponents.insert(0, min(exponents) - 1)
        if any(rate == lowest for rate, lowest, _ in ends) and max(exponents) - last < self.widen:
            exponents.append(max(exponents) + 1)
        return LRSearchRule(rule.base, tuple(exponents), rule.factors)


def trial_mark(method: Search) -> dict[str, Any]:
    """Returns what the plan says of a method's trials."""
    return {"role": TRIAL, "method": method.name, "search": method.described()}


def mark(folder: Path, methods: list[TunedMethod], finals: list[dict[str, Any]]) -> None:
    """Writes into the plan which of its jobs are trials and final runs now, and which are of an earlier command.

    A trial at a rate that the grid does not lead to keeps what it was searched for by.
    """
    of = {tuple(run): method for method in methods for run in method.runs}
    jobs = read_jobs(folder)
    for job in jobs:
        *run, last = job["overrides"]
        method = of.get(tuple(run))
        if method is not None and float(split_override(last)[2]) in method.rule.all_rates():
            job.update(trial_mark(method))
        elif method is not None:
            job.update(role=TRIAL, method=method.name)
        elif "role" in job:
            job["role"] = FORMER
    plan_more(folder, [*jobs, *finals])
