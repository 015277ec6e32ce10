"""One search of a learning rate: the trials so far, read from their folders. Needs no torch."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..records.job_table import job_status
from ..system.errors import UserError
from ..system.files import shown
from .search_rule import LRSearchRule, chosen_rate, is_at_edge

SEED = "seed"  # runs that differ in this key only are one trial
STATUS = {"done": "finished", "missing": "interrupted"}  # states of the job table that have another name here


@dataclass
class Outcome:
    """What became of one run of a trial; `loss` is infinite unless it came to its end."""

    folder: str  # relative to the sweep's
    status: str
    loss: float


@dataclass(eq=False)
class Search:
    """The search of one rate.

    Attributes:
        name: what tells it from the others of its sweep, as in `optimizer=adam`; empty where it is the only one.
        parameter: the key that is searched.
        rule: which rates are tried.
        runs: the overrides of each run of a trial, which are one a seed, without the rate.
        duration: of a run.
        over_last: steps at the end of a run whose training rows count.
        outcomes: those of each trial, by its rate, in the order in which they were tried.
    """

    name: str
    parameter: str
    rule: LRSearchRule
    runs: list[list[str]]
    duration: str
    over_last: int
    outcomes: dict[float, list[Outcome]] = field(default_factory=dict)

    @property
    def losses(self) -> dict[float, float]:
        """The loss at each rate, a mean over the seeds."""
        return {rate: sum(o.loss for o in found) / len(found) for rate, found in self.outcomes.items()}

    @property
    def chosen(self) -> float | None:
        """The rate with the lowest loss; None where all trials diverged, failed or were killed."""
        return chosen_rate(self.losses)

    @property
    def at_edge(self) -> bool:
        """Whether the best rate may lie beyond those that were tried."""
        return self.chosen is not None and is_at_edge(self.chosen, self.losses)

    def overrides(self, rate: float) -> list[list[str]]:
        """Returns those of each run of a trial."""
        return [[*run, f"{self.parameter}={rate}"] for run in self.runs]

    def described(self) -> dict[str, Any]:
        """Returns what two searches of equal effort share."""
        described = {"parameter": self.parameter, **asdict(self.rule), "seeds": len(self.runs)}
        return {**described, "duration": self.duration, "over_last": self.over_last}

    def stage(self, rate: float) -> int:
        """Returns in which stage a rate was tried."""
        return 1 if rate in self.rule.next_rates({}) else 2

    def status(self, rate: float) -> str:
        """Returns what became of a trial's runs: one word where it is the same for all."""
        number = Counter(o.status for o in self.outcomes[rate])
        return next(iter(number)) if len(number) == 1 else ", ".join(f"{n} {word}" for word, n in number.items())


def outcome(sweep: Path, job: dict[str, Any], over_last: int) -> Outcome:
    """Returns what became of a run that has ended.

    Args:
        sweep: its folder.
        job: {folder, overrides, fingerprint} of the run.
        over_last: steps at the end of a run whose training rows count.

    Raises:
        UserError: the run in the folder is another, or its rows cannot be read.
    """
    name = job["folder"]
    state = job_status(sweep, name, job, alive=False).state
    if state == "outdated":
        raise UserError(
            f"{shown(sweep / name)}: holds a run with another configuration, so no rate is chosen;"
            " remove it, or give hydra.sweep.dir=DIR for a new search"
        )
    status = STATUS.get(state, state)
    return Outcome(name, status, end_loss(sweep / name, over_last) if status == "finished" else math.inf)


def end_loss(folder: Path, over_last: int) -> float:
    """Returns the mean of `total` over the training rows of the last steps; infinite where one is not finite."""
    from ..records.metrics import read_metrics

    try:
        found = {row["step"]: row["total"] for row in read_metrics(folder, "train")}
        losses = [value for step, value in found.items() if step > max(found) - over_last]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{shown(folder)}/metrics.jsonl: is missing or damaged; remove the folder") from error
    return math.inf if None in losses else sum(losses) / len(losses)


@dataclass(eq=False)
class TunedMethod(Search):
    """A method of a tournament: the search of its learning rate, and its final runs.

    Attributes:
        typed: its overrides, without seed and learning rate.
    """

    typed: list[str] = field(default_factory=list)

    def final(self, seed: int, rate: float) -> list[str]:
        """Returns the overrides of a final run."""
        return [*self.typed, f"{self.parameter}={rate}", f"{SEED}={seed}"]


@dataclass
class SearchResult:
    """What a learning-rate search came to: one search for each combination of what else was swept."""

    searches: list[Search]


@dataclass
class TournamentResult:
    """What a tournament came to.

    Attributes:
        methods: with their searches.
        tuning_seeds: of the trials.
        seeds: of the final runs.
    """

    methods: list[TunedMethod]
    tuning_seeds: list[int]
    seeds: list[int]


def plural(count: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> plural(1, "method"), plural(2, "method")
    ('1 method', '2 methods')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
