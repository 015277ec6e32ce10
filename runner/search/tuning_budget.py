"""Whether the methods of a tournament had equal tuning budgets, read from their runs. Needs no torch."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..config.durations import Duration, is_time
from ..config.overrides import split_override
from ..records.job_table import ENDED, SEED, SweepJobs, job_status
from ..records.run_folder import read_summary
from ..system.errors import UserError
from ..system.lock import folders_being_written
from .search_rule import LRSearchRule

TRIAL, FINAL, FORMER = "trial", "final", "former"  # the role of a job; former: a final run of an earlier command
TRIED = (*ENDED, "failed", "interrupted")  # states of trials; to the rule the last two have an infinite loss


@dataclass
class Entrant:
    """A job of a tournament.

    Attributes:
        sweep: the tournament's folder.
        method: the name of its method.
        role: `trial`, `final` or `former`.
        search: of a trial: the settings of its search, as `Search.settings` or `SearchedMethod.settings` has them.
        typed: its overrides, by their keys.
        state: as in the job table.
        length: (steps, samples) of a finished run; None of others, and of runs that end by the clock.
        trial: of a search by trials: the number of the trial; None of others.
        trials: of a final run after a search by trials: how many trials its method had; None of others.
    """

    sweep: Path
    method: str
    role: str
    search: dict[str, Any]
    typed: dict[str, str]
    state: str
    length: tuple[int, int] | None
    trial: int | None = None
    trials: int | None = None

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.typed[SEED])

    @property
    def parameter(self) -> str:
        """Of a trial by rule: the key that is searched, as in `optimizer.lr`."""
        return split_override(self.search["parameter"])[1]


def read_entrants(jobs: SweepJobs) -> dict[Path, Entrant]:
    """Returns those of some jobs of sweeps, as of `sweep_jobs`, that are jobs of tournaments."""
    jobs = {folder: (sweep, job) for folder, (sweep, job) in jobs.items() if "role" in job}
    alive = folders_being_written(list(jobs))
    entrants = {}
    for folder, (sweep, job) in jobs.items():
        state = job_status(sweep, job["folder"], job, folder in alive).state
        summary = read_summary(folder)
        counts = state == "done" and not is_time(job.get("duration"))
        length = (summary.get("steps", 0), summary.get("samples", 0)) if counts else None
        typed = {split_override(o)[1]: split_override(o)[2] for o in job["overrides"]}
        numbers = job.get("trial"), job.get("trials")
        entrants[folder] = Entrant(
            sweep, job["method"], job["role"], job.get("search", {}), typed, state, length, *numbers
        )
    return entrants


def unequal_budget(entrants: Iterable[Entrant], durations_differ: bool = False) -> list[str]:
    """Returns the reasons why the budgets of the methods of a tournament differ, one line each.

    A diverged run has come to its end. That a trial fails or is killed is an outcome that a search can deal with.

    Args:
        entrants: all jobs of the tournament.
        durations_differ: whether the final runs are known to have different durations, so that their different
            numbers of steps are no further reason.
    """
    entrants = list(entrants)
    finals = [e for e in entrants if e.role == FINAL]
    competing = {e.method for e in finals}
    trials = [e for e in entrants if e.role == TRIAL and e.method in competing]
    reasons = [f"{e.method}: its final run with seed {e.seed} is {e.state}" for e in finals if e.state not in ENDED]
    reasons += [f"{e.method}: a trial ({_trial_name(e)}) is {e.state}" for e in trials if e.state not in TRIED]
    reasons += _different_seeds(finals)
    reasons += [] if durations_differ else _different_lengths("final runs", finals)
    reasons += _different_lengths("trials", trials)
    return reasons + _different_searches(trials) + _missing_trials(trials) + _different_numbers(finals)


def methods_without_lr(entrants: Iterable[Entrant]) -> list[tuple[str, str]]:
    """Returns (method, reason) of the methods that were tried and have no final runs."""
    entrants = list(entrants)
    competing = {e.method for e in entrants if e.role == FINAL}
    by_rule = {e.method: e.trial is None for e in entrants if e.role == TRIAL}
    reason = "every trial diverged, failed or was killed"
    return [
        (method, f"has no learning rate: {reason}" if is_by_rule else f"nothing was chosen: {reason}")
        for method, is_by_rule in by_rule.items()
        if method not in competing
    ]


def usual_length(entrants: Iterable[Entrant], role: str) -> tuple[int, int] | None:
    """Returns (steps, samples) of most finished runs of a role; None where none is finished."""
    lengths = Counter(e.length for e in entrants if e.role == role and e.length is not None)
    return lengths.most_common(1)[0][0] if lengths else None


def _different_seeds(finals: list[Entrant]) -> list[str]:
    usual, others = _minority(finals, lambda e: e.seed)
    return [f"{name}: final runs with seeds {_list(s)}, most have {_list(usual)}" for name, s in others.items()]


def _different_lengths(what: str, entrants: list[Entrant]) -> list[str]:
    usual = Counter(e.length for e in entrants if e.length is not None).most_common(1)
    reasons = []
    for method in dict.fromkeys(e.method for e in entrants):
        lengths = Counter(e.length for e in entrants if e.method == method and e.length is not None)
        for (steps, samples), number in lengths.items():
            if (steps, samples) != usual[0][0]:
                at = f"{number} of its {what} did {steps:,} steps with {samples:,} samples"
                reasons.append(f"{method}: {at}, most did {usual[0][0][0]:,} with {usual[0][0][1]:,}")
    return reasons


def _different_searches(trials: list[Entrant]) -> list[str]:
    usual, others = _minority(trials, lambda e: json.dumps(e.search, sort_keys=True))
    usual_searches = [json.loads(text) for text in sorted(usual)]
    reasons = []
    for name, texts in others.items():
        searches = [json.loads(text) for text in sorted(texts)]
        keys = [
            key
            for key in usual_searches[0]
            if {str(s.get(key)) for s in searches} != {str(s[key]) for s in usual_searches}
        ]
        mine, most = (_settings_text(keys, of) for of in (searches, usual_searches))
        what = "its learning rate was searched for" if "parameter" in usual_searches[0] else "it was searched"
        reasons.append(f"{name}: {what} with {mine}, most with {most}")
    return reasons


def _settings_text(keys: list[str], searches: list[dict[str, Any]]) -> str:
    """Returns the values of some keys in searches, as `base=10; exponents=[1, 2] and [5]`."""
    return "; ".join(f"{key}={' and '.join(dict.fromkeys(str(s.get(key)) for s in searches))}" for key in keys)


def _missing_trials(trials: list[Entrant]) -> list[str]:
    """Returns which trials of stage one of the rule a method lacks."""
    trials = [e for e in trials if e.trial is None]
    seeds = sorted({e.seed for e in trials})
    reasons = []
    for method in dict.fromkeys(e.method for e in trials):
        in_search = [e for e in trials if e.method == method and e.search]
        tried = {(float(e.typed[e.parameter]), e.seed) for e in in_search}
        for search in {json.dumps(e.search): e.search for e in in_search}.values():
            rule = LRSearchRule(search["base"], tuple(search["exponents"]), ())
            missing = [(lr, seed) for lr in rule.next_lrs({}) for seed in seeds if (lr, seed) not in tried]
            reasons += [f"{method}: has no trial at the learning rate {lr} with seed {seed}" for lr, seed in missing]
    return reasons


def _different_numbers(finals: list[Entrant]) -> list[str]:
    """Returns which methods had another number of trials than most; methods of which nothing is searched have none."""
    usual, others = _minority([e for e in finals if e.trials is not None], lambda e: e.trials)
    return [f"{name}: {_list(numbers)} trials, most have {_list(usual)}" for name, numbers in others.items()]


def _minority(
    entrants: list[Entrant], value: Callable[[Entrant], Hashable]
) -> tuple[frozenset[Any], dict[str, frozenset[Any]]]:
    """Returns the set of values that most methods have, and by name the methods that have another, with theirs."""
    sets: dict[str, set[Any]] = {}
    for e in entrants:
        sets.setdefault(e.method, set()).add(value(e))
    frozen = {name: frozenset(values) for name, values in sets.items()}
    usual = Counter(frozen.values()).most_common(1)[0][0] if frozen else frozenset()
    return usual, {name: values for name, values in frozen.items() if values != usual}


def _trial_name(trial: Entrant) -> str:
    what = f"{trial.parameter}={trial.typed[trial.parameter]}" if trial.trial is None else f"trial {trial.trial}"
    return f"{what}, seed {trial.seed}"


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def check_trial_length(trial: str, final: str, typed: str | None = None) -> None:
    """Raises UserError where a trial is longer than a final run, or where that depends on the data.

    Args:
        trial: the duration of a trial.
        final: that of a final run.
        typed: the override that says how long a trial is; None: hydra.sweeper.trial_duration does.
    """
    length, limit = Duration.parse(trial), Duration.parse(final)
    typed = typed or f"hydra.sweeper.trial_duration={trial}"
    if length.unit != limit.unit:
        raise UserError(
            f"{typed}: give trials and final runs (duration={final}) the same unit, so that trials are no longer than"
            " final runs"
        )
    if length.amount > limit.amount:
        raise UserError(f"{typed}: must be at most duration={final}, the length of a final run")


def check_ended_trial(folder: Path, final: str, typed: str) -> None:
    """Raises UserError where a trial that has ended was longer than a final run.

    Args:
        folder: of the trial; one that did not come to its end says nothing.
        final: the duration of a final run.
        typed: the override that says how long a trial is.
    """
    summary = read_summary(folder)
    if summary.get("status") != "finished":
        return
    steps, epochs = summary["steps"], summary["epochs"]
    passed = float(Duration.parse(final).passed(steps, Fraction(epochs)))
    if passed > 1 + 1e-9:  # epochs are rounded
        raise UserError(
            f"{typed}: a trial takes {epochs:.4g} epochs, and must be no longer than a final run, which has"
            f" duration={final}; give at most {int(steps / passed + 1e-6)}"
        )
