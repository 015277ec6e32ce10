"""Whether the methods of a tournament were given the same, read from what they did. Needs no torch."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.overrides import split_override
from ..records.job_table import ENDED, job_status, sweep_jobs
from ..system.files import read_json
from ..system.lock import folders_being_written
from .search_rule import LRSearchRule

TRIAL, FINAL, FORMER = "trial", "final", "former"  # what a job is there for; former: of an earlier command
TRIED = (*ENDED, "failed", "interrupted")  # the rule counts what did not come to its end as infinitely bad


@dataclass
class Entrant:
    """A job of a tournament.

    Attributes:
        sweep: the tournament's folder.
        method: the name of the method that it is of.
        role: `trial`, `final` or `former`.
        search: of a trial: how its rate was searched for, as `Search.described` says.
        typed: its overrides, by their keys.
        state: as in the job table.
        done: (steps, samples) of a finished run; None of others.
    """

    sweep: Path
    method: str
    role: str
    search: dict[str, Any]
    typed: dict[str, str]
    state: str
    done: tuple[int, int] | None

    @property
    def seed(self) -> int:
        """Its seed."""
        return int(self.typed["seed"])


def read_entrants(folders: Iterable[Path]) -> dict[Path, Entrant]:
    """Returns those of these folders that are jobs of tournaments."""
    jobs = {folder: place for folder, place in sweep_jobs(folders).items() if "role" in place[1]}
    alive = folders_being_written(list(jobs))
    found = {}
    for folder, (sweep, job) in jobs.items():
        state = job_status(sweep, job["folder"], job, folder in alive).state
        summary = read_json(folder / "summary.json")
        done = (summary.get("steps", 0), summary.get("samples", 0)) if state == "done" else None
        typed = {split_override(o)[1]: split_override(o)[2] for o in job["overrides"]}
        found[folder] = Entrant(sweep, job["method"], job["role"], job.get("search", {}), typed, state, done)
    return found


def unequal_budget(entrants: Iterable[Entrant]) -> list[str]:
    """Returns in a line each why the methods of a tournament were not given the same.

    A diverged run has come to its end; that a trial fails or is killed is an outcome that the rule knows.
    """
    there = list(entrants)
    finals = [e for e in there if e.role == FINAL]
    competing = {e.method for e in finals}
    trials = [e for e in there if e.role == TRIAL and e.method in competing]
    reasons = [f"{e.method}: its final run with seed {e.seed} is {e.state}" for e in finals if e.state not in ENDED]
    reasons += [f"{e.method}: a trial ({_named(e)}) is {e.state}" for e in trials if e.state not in TRIED]
    reasons += _other_seeds(finals)
    reasons += _other_lengths("final runs", finals) + _other_lengths("trials", trials)
    return reasons + _other_searches(trials) + _gaps(trials)


def without_rate(entrants: Iterable[Entrant]) -> list[tuple[str, str]]:
    """Returns (method, reason) of those that were tried and have no final runs."""
    there = list(entrants)
    competing = {e.method for e in there if e.role == FINAL}
    tried = dict.fromkeys(e.method for e in there if e.role == TRIAL)
    reason = "has no rate: every trial diverged, failed or was killed"
    return [(method, reason) for method in tried if method not in competing]


def usual_length(entrants: Iterable[Entrant], role: str) -> tuple[int, int] | None:
    """Returns (steps, samples) that most of the finished runs of a role did; None where none is finished."""
    found = Counter(e.done for e in entrants if e.role == role and e.done is not None)
    return found.most_common(1)[0][0] if found else None


def _other_seeds(finals: list[Entrant]) -> list[str]:
    usual, others = _odd_ones(finals, lambda e: e.seed)
    return [f"{name}: final runs with seeds {_list(s)}, most have {_list(usual)}" for name, s in others.items()]


def _other_lengths(what: str, entrants: list[Entrant]) -> list[str]:
    usual = Counter(e.done for e in entrants if e.done is not None).most_common(1)
    reasons = []
    for method in dict.fromkeys(e.method for e in entrants):
        own = Counter(e.done for e in entrants if e.method == method and e.done is not None)
        for (steps, samples), number in own.items():
            if (steps, samples) != usual[0][0]:
                at = f"{number} of its {what} did {steps:,} steps with {samples:,} samples"
                reasons.append(f"{method}: {at}, most did {usual[0][0][0]:,} with {usual[0][0][1]:,}")
    return reasons


def _other_searches(trials: list[Entrant]) -> list[str]:
    usual, others = _odd_ones(trials, lambda e: json.dumps(e.search, sort_keys=True))
    reasons = []
    for name, own in others.items():
        mine, theirs = ([json.loads(text) for text in sorted(texts)] for texts in (own, usual))
        keys = [key for key in theirs[0] if {str(s.get(key)) for s in mine} != {str(s[key]) for s in theirs}]
        there = "; ".join(f"{key}={' and '.join(dict.fromkeys(str(s.get(key)) for s in mine))}" for key in keys)
        most = "; ".join(f"{key}={' and '.join(dict.fromkeys(str(s[key]) for s in theirs))}" for key in keys)
        reasons.append(f"{name}: its rate was searched for with {there}, most with {most}")
    return reasons


def _gaps(trials: list[Entrant]) -> list[str]:
    """Says which trials of stage one a method lacks."""
    seeds = sorted({e.seed for e in trials})
    reasons = []
    for method in dict.fromkeys(e.method for e in trials):
        own = [e for e in trials if e.method == method and e.search]
        tried = {(float(e.typed[parameter_of(e)]), e.seed) for e in own}
        for search in {json.dumps(e.search): e.search for e in own}.values():
            rule = LRSearchRule(search["base"], tuple(search["exponents"]), ())
            lacking = [(r, s) for r in rule.next_rates({}) for s in seeds if (r, s) not in tried]
            reasons += [f"{method}: has no trial at the rate {rate} with seed {seed}" for rate, seed in lacking]
    return reasons


def parameter_of(trial: Entrant) -> str:
    """Returns the key that is searched, as in `optimizer.lr`."""
    return split_override(trial.search["parameter"])[1]


def _odd_ones(
    entrants: list[Entrant], value: Callable[[Entrant], Hashable]
) -> tuple[frozenset[Any], dict[str, frozenset[Any]]]:
    """Returns the set of values that most methods have, and the methods that have another with theirs."""
    sets: dict[str, set[Any]] = {}
    for e in entrants:
        sets.setdefault(e.method, set()).add(value(e))
    found = {name: frozenset(values) for name, values in sets.items()}
    usual = Counter(found.values()).most_common(1)[0][0] if found else frozenset()
    return usual, {name: values for name, values in found.items() if values != usual}


def _named(trial: Entrant) -> str:
    return f"{parameter_of(trial)}={trial.typed[parameter_of(trial)]}, seed {trial.seed}"


def _list(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
