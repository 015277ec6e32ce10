"""Hydra's sweeper that tunes every method with the same budget and runs each with the values that were chosen."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import ChoiceSweep, Override
from omegaconf import DictConfig

from ..config.durations import Duration, is_time
from ..config.overrides import split_override
from ..config.run_names import as_typed, key_of
from ..records.job_table import SEED, read_jobs
from ..sweeps.jobs import composed, configured_overrides, plan_jobs
from ..sweeps.sweeper import extend_plan
from ..system.errors import UserError
from ..system.files import plural, shown
from ..system.hydra_compat import parse_overrides, product
from .lr_heuristic import LRHeuristicSweeper, Trial, trial_settings
from .optuna_sweeper import check_installed
from .search import Competitor, TournamentResult, TunedMethod
from .search_report import write_searches
from .search_rule import LRSearchRule
from .tuning_budget import FORMER, TRIAL, check_ended_trial, check_trial_length

if TYPE_CHECKING:
    from .tournament_trials import TrialTuner

RULE = "rule"
RULE_KEYS = ("parameter", "base", "exponents", "factors", "steps", "over_last", "max_extensions")
TRIAL_KEYS = ("trials", "sampler_seed")
SAME_FOR_ALL = ("data", "duration")  # keys and sections that are the same for all methods
SEED_KEYS = "hydra.sweeper.seeds=[…] for the final runs, hydra.sweeper.tuning_seeds=[…] for the search"


class TournamentSweeper(LRHeuristicSweeper):
    """Tunes every method with the same budget, then makes the final runs.

    By rule, the learning rate is searched as `LRHeuristicSweeper` does: all methods have the same grid, the same seeds
    and trials of the same length. Where the best learning rate of one lies at a boundary of the grid, the grid of all
    is extended there by an exponent. Otherwise all methods have as many trials of the same length with the same seeds,
    each in its own search space: that of conf/space for its optimizer, without the keys that its overrides give a
    value, and with what they leave open. Whether the budgets were equal is read from the runs: see
    `tuning_budget.unequal_budget`. Trials that are longer than final runs are refused; where that depends on the data,
    after the first trial of each method. A method of which nothing is searched, as its optimizer computes the
    learning rate itself, has no trials, and final runs as it is.

    Args:
        search: rule, random, qmc or tpe.
        trials: of each method, those of earlier commands included; not by rule.
        trial_duration: length of a trial; None: by rule `steps`, otherwise that of a final run.
        selection: what is compared of trials: train_loss or validation_loss; None: by rule train_loss, otherwise
            validation_loss.
        sampler_seed: of random, qmc and tpe, the same for all methods.
        parameter: the key that is searched.
        base: of the learning rates of stage one.
        exponents: i, of stage one.
        factors: n, of stage two, in the order in which they are tried.
        steps: length of a trial by rule.
        over_last: steps at the end of a trial whose training records count.
        max_extensions: exponents by which the grid may be extended at each end.
        tuning_seeds: of the trials.
        seeds: of the final runs; none of `tuning_seeds`.
        methods: each as overrides with blanks between, in addition to the swept values.
        params: swept values where the command has neither methods nor the key.
    """

    def __init__(
        self,
        search: str,
        trials: int,
        trial_duration: str | None,
        selection: str | None,
        sampler_seed: int,
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
        self.by, self.trials, self.sampler_seed = search, trials, sampler_seed
        self.trial_duration = trial_duration
        self.duration = trial_duration or self.duration
        self.selection = selection or "validation_loss"
        self.max_extensions = max_extensions
        self.tuning_seeds, self.seeds = list(tuning_seeds), list(seeds)
        self.methods = list(methods)

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class from the configuration, checked."""
        settings = super().settings(config)
        for key in ("tuning_seeds", "seeds"):
            if not settings[key] or len(set(settings[key])) < len(settings[key]):
                raise UserError(f"hydra.sweeper.{key}={settings[key]}: must not be empty, and no value may occur twice")
        both = set(settings["seeds"]) & set(settings["tuning_seeds"])
        if both:
            raise UserError(
                f"hydra.sweeper.seeds={settings['seeds']}: {min(both)} is one of"
                f" hydra.sweeper.tuning_seeds={settings['tuning_seeds']}; final runs need seeds that no trial had"
            )
        check_search_keys(settings, as_typed(config.hydra.overrides.hydra))
        return settings

    @classmethod
    def first_jobs(cls, config: DictConfig) -> list[dict[str, Any]]:
        """Returns the jobs of stage one; the final runs are checked too, at the first learning rate.

        Where trials search, the first trial chooses the first jobs; whatever they may try is checked.

        Raises:
            UserError: a key of the sweeper has a value that is not allowed, a job cannot be run as it was typed, no
                method has the key that is searched, or two methods are the same; or the folder holds another
                tournament.
        """
        sweeper = cls(**cls.settings(config))
        folder = Path(config.hydra.sweep.dir)
        if sweeper.by != RULE:
            tuner = sweeper.tuner(config)
            check_same_search(folder, sweeper.by, tuner.settings)
            tuner.check(sweeper.seeds[0])
            return []
        methods = sweeper.new_searches(config)
        check_same_search(folder, RULE, {"search": RULE})
        lr = methods[0].rule.next_lrs({})[0]
        names: dict[str, str] = {}
        for method in methods:
            point = [f"{method.parameter}={lr}"] if method.is_tuned else []
            (job,) = plan_jobs(config, [method.final_overrides(sweeper.seeds[0], point)])
            if job["fingerprint"] in names:
                raise UserError(f"{names[job['fingerprint']]} and {method.name}: are the same method")
            names[job["fingerprint"]] = method.name
        return super().first_jobs(config)

    def plan_trials(self, config: DictConfig, trials: list[Trial]) -> list[dict[str, Any]]:
        """Returns the plan of each run of some trials, checked, with its role."""
        methods = {tuple(run): search for search, lr in trials for run in search.overrides(lr)}
        jobs = super().plan_trials(config, trials)
        entries = {run: {"role": TRIAL, "method": m.name, "search": m.settings()} for run, m in methods.items()}
        return [job | entries[tuple(job["overrides"])] for job in jobs]

    def new_searches(self, config: DictConfig) -> list[TunedMethod]:  # type: ignore[override]
        """Returns the methods, with nothing tried yet; UserError where one cannot compete."""
        self.check_length(self.duration)
        trial = trial_settings(self.duration)
        trial_overrides = [f"{key}={value}" for key, value in trial.items()]
        methods: list[TunedMethod] = []
        for name, typed in self.method_overrides(config):
            final = composed(config, typed).duration
            if Duration.is_valid(final) and (self.trial_duration is not None or self.knows_length(final)):
                check_trial_length(self.duration, final, self.typed_length)
            missing = self.missing_parameter(config, typed)
            if missing is not None and not self.parameter.endswith(".lr"):
                raise UserError(missing)
            others = [o for o in typed if split_override(o)[1] not in trial]
            seeds = self.tuning_seeds if missing is None else []
            runs = [[*others, *trial_overrides, f"{SEED}={seed}"] for seed in seeds]
            settings = (self.parameter, self.rule, runs, self.duration, self.over_last)
            methods.append(TunedMethod(name, *settings, typed=typed, is_tuned=missing is None, final_duration=final))
        if not any(method.is_tuned for method in methods):
            raise UserError(str(missing))
        return sorted(methods, key=lambda method: not method.is_tuned)

    def method_overrides(self, config: DictConfig) -> list[tuple[str, list[str]]]:
        """Returns (name, overrides) of each method; the name is the overrides that not all methods have.

        Overrides that leave a key open to a search by trials come last, as they were typed.
        """
        typed = parse_overrides(as_typed(config.hydra.overrides.task))
        configured = configured_overrides(config)
        if self.methods:
            configured = [o for o in configured if not o.is_sweep_override()]
        everything = {o.get_key_element(): o for o in [*configured, *typed]}
        swept = [o for o in everything.values() if o.is_sweep_override() and not self.is_searched(o)]
        common = [o for o in everything.values() if not o.is_sweep_override() or self.is_searched(o)]
        grids = [swept] if swept or not self.methods else []
        grids += [parse_overrides(shlex.split(text)) for text in self.methods]
        methods = []
        for grid in grids:
            self.check_keys([*common, *grid], [*grid, *(o for o in common if self.is_searched(o))])
            keys = {o.get_key_element() for o in grid}
            last = {bare_key(o): o for o in [*common, *grid]}
            opened = {key: str(o.input_line) for key, o in last.items() if self.is_searched(o)}
            fixed = [o for o in [*common, *grid] if not self.is_searched(o) and bare_key(o) not in opened]
            for overrides in ([*run, *opened.values()] for run in product(fixed)):
                name = " ".join(text for text in overrides if text.partition("=")[0] in keys)
                methods.append((name or "all runs", overrides))
        return methods

    def check_keys(self, overrides: list[Override], of_method: list[Override]) -> None:
        """Raises UserError for a seed, and for a key of a method that must be the same for all."""
        for override in overrides:
            if bare_key(override) == SEED:
                raise UserError(f"{override.input_line}: a tournament sets the seeds itself; give {SEED_KEYS}")
            if bare_key(override) == "optimizer" and self.is_searched(override):
                raise UserError(f"{override.input_line}: each optimizer is a method; give optimizer=a,b")
        for override in of_method:
            if bare_key(override).partition(".")[0] in SAME_FOR_ALL:
                raise UserError(f"{override.input_line}: must be the same for all methods of a tournament")

    def is_searched(self, override: Override) -> bool:
        """Returns whether trials search a key: interval(…), range(…) and choice(…) do, while a,b are methods."""
        if self.by == RULE or not override.is_sweep_override():
            return False
        sweep = override.value()
        return not (isinstance(sweep, ChoiceSweep) and sweep.simple_form)

    def tuner(self, config: DictConfig) -> "TrialTuner":
        """Returns what searches by trials."""
        check_installed(f"hydra.sweeper.search={self.by}", self.by)
        from ..trials.metric import MetricName  # imports torch
        from ..trials.search import SearchOptions  # imports Optuna
        from .tournament_trials import TrialTuner

        options = SearchOptions(self.trials, self.by, MetricName.parse(self.selection), None, self.sampler_seed)
        methods = self.method_overrides(config)
        return TrialTuner(config, self, methods, options, self.trial_duration, self.tuning_seeds)

    def find_best(self) -> TournamentResult | None:  # type: ignore[override]
        """Searches and makes the final runs; returns the methods, or None if it was stopped."""
        folder = Path(self.sweep_config.hydra.sweep.dir)
        tuner = None if self.by == RULE else self.tuner(self.sweep_config)
        methods = self.tune_by_rule(folder) if tuner is None else tuner.tune()
        if methods is None:
            return None
        runs = {
            tuple(method.final_overrides(seed, method.best)): method.final_entries()
            for method in methods
            if method.best is not None
            for seed in self.seeds
        }
        jobs = plan_jobs(self.sweep_config, [list(overrides) for overrides in runs])
        finals = [job | runs[tuple(job["overrides"])] for job in jobs]
        record_roles(folder, methods, finals)
        what = "learning rates" if tuner is None else "values"
        print(f"the {what} are chosen: {plural(len(finals), 'final run')}", flush=True)
        if not self.run_jobs(folder, finals):
            return None
        tuned = [method for method in methods if isinstance(method, TunedMethod) and method.is_tuned]
        if tuned:
            write_searches(folder, list(tuned))
        settings = {**tuned[0].settings(), "seeds": len(self.tuning_seeds)} if tuner is None else tuner.settings
        return TournamentResult(methods, settings, self.tuning_seeds, self.seeds)

    def tune_by_rule(self, folder: Path) -> list[TunedMethod] | None:
        """Searches a learning rate for each method by the rule; returns the methods, or None if it was stopped."""
        methods = self.new_searches(self.sweep_config)
        tuned = [method for method in methods if method.is_tuned]
        print(f"searching {self.parameter} for {plural(len(tuned), 'method')}", flush=True)
        if not (self.run_first_trials(folder, tuned) and self.search_in_grid(folder, tuned)):
            return None
        for method in tuned:
            self.check_lengths(folder, method, [run.folder for runs in method.outcomes.values() for run in runs])
        return methods

    @property
    def typed_length(self) -> str:
        """The override that says how long a trial is."""
        if self.trial_duration is None:
            return f"hydra.sweeper.steps={self.duration.removesuffix('steps')}"
        return f"hydra.sweeper.trial_duration={self.duration}"

    def knows_length(self, final: str) -> bool:
        """Returns whether a trial can be compared in length with a final run, before any of them has read the data."""
        return is_time(final) or Duration.parse(self.duration).unit == Duration.parse(final).unit

    def run_first_trials(self, folder: Path, methods: list[TunedMethod]) -> bool:
        """Runs a trial of each method whose length depends on the data; returns whether all of them have ended.

        These are the trials at the lowest learning rate, at which runs are the least likely to diverge.

        Raises:
            UserError: a trial was longer than a final run.
        """
        methods = [method for method in methods if not self.knows_length(method.final_duration)]
        trials: list[Trial] = [(method, min(method.rule.next_lrs({}))) for method in methods]
        jobs = self.plan_trials(self.sweep_config, trials)
        if not self.run_jobs(folder, jobs):
            return False
        for method in methods:
            self.check_lengths(folder, method, [job["folder"] for job in jobs if job["method"] == method.name])
        return True

    def check_lengths(self, folder: Path, method: TunedMethod, trials: Iterable[str]) -> None:
        """Raises UserError where one of some trials of a method was longer than its final runs."""
        for trial in trials:
            check_ended_trial(folder / trial, method.final_duration, self.typed_length)

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


def bare_key(override: Override) -> str:
    """Returns the key of an override without the signs that add or delete it."""
    return split_override(str(override.input_line))[1]


def check_search_keys(settings: dict[str, Any], typed: list[str]) -> None:
    """Raises UserError for keys of the sweeper that cannot go together.

    Args:
        settings: the arguments of the sweeper.
        typed: overrides of Hydra's own keys.
    """
    by = settings["search"]
    keys = {key_of(override).removeprefix("hydra.sweeper."): override for override in typed}
    for key in TRIAL_KEYS if by == RULE else RULE_KEYS:
        if key in keys:
            known = RULE_KEYS if by == RULE else (*TRIAL_KEYS, "trial_duration", "selection")
            raise UserError(f"{keys[key]}: hydra.sweeper.search={by} has no such key; it has {', '.join(known)}")
    if by == RULE and settings["selection"] == "validation_loss":
        raise UserError(
            "hydra.sweeper.selection=validation_loss: the rule compares training losses;"
            " hydra.sweeper.search=random, qmc and tpe compare validation losses"
        )
    if settings["trial_duration"] is not None and "steps" in keys:
        raise UserError(f"{keys['steps']}: is the length of a trial, as hydra.sweeper.trial_duration is; give one")


def check_same_search(folder: Path, by: str, settings: dict[str, Any]) -> None:
    """Raises UserError where a folder holds a tournament with another search.

    Args:
        folder: of the tournament.
        by: rule, random, qmc or tpe.
        settings: of the search by trials; a grid of the rule may change.
    """
    for job in read_jobs(folder):
        if job.get("role") != TRIAL:
            continue
        former = {"search": RULE, **(job.get("search") or {})}
        if former["search"] == by == RULE:
            continue
        differ = [f"{key}={value}" for key, value in former.items() if key in settings and settings[key] != value]
        if differ:
            raise UserError(
                f"{shown(folder)}: holds a tournament with {', '.join(differ)}; give hydra.sweep.dir=DIR for another"
            )


def record_roles(folder: Path, methods: Sequence[Competitor], finals: list[dict[str, Any]]) -> None:
    """Writes into the plan which jobs are trials and final runs now, and which are of an earlier command."""
    jobs = read_jobs(folder)
    for job in jobs:
        present = next((e for method in methods if (e := method.trial_entries(job)) is not None), None)
        if present is not None:
            job.update(present)
        elif "role" in job:
            job["role"] = FORMER
    extend_plan(folder, [*jobs, *finals])
