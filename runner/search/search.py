"""A search of a learning rate: the trials so far, read from their folders. Needs no torch."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..config.overrides import split_override
from ..config.run_names import folder_name
from ..records.job_table import SEED, job_status
from ..records.metrics import METRICS_FILE, read_metrics
from ..system.errors import UserError
from ..system.files import shown
from .search_rule import LRSearchRule, best_lr, is_at_boundary
from .tuning_budget import FINAL, TRIAL

SEARCHES = "searches"  # below the folder of a tournament: a folder for each method's search
STATUS = {"done": "finished", "missing": "interrupted"}  # states of the job table that have another name here


@dataclass
class RunOutcome:
    """The outcome of one run of a trial.

    Attributes:
        folder: of the run, relative to the sweep's.
        status: `finished`, `diverged`, `failed` or `interrupted`.
        loss: the mean of `total` over the last steps; infinite unless the run has finished.
    """

    folder: str
    status: str
    loss: float


@dataclass(eq=False)
class Search:
    """The search of one learning rate.

    Attributes:
        name: the overrides that the other searches of the sweep lack, as in `optimizer=adam`; empty for a single one.
        parameter: the key that is searched.
        rule: says which learning rates are tried.
        runs: the overrides of each run of a trial, one for each seed, without the learning rate.
        duration: of a run.
        over_last: steps at the end of a run whose training records count.
        outcomes: of the runs of each trial, by its learning rate, in the order in which they were tried.
    """

    name: str
    parameter: str
    rule: LRSearchRule
    runs: list[list[str]]
    duration: str
    over_last: int
    outcomes: dict[float, list[RunOutcome]] = field(default_factory=dict)

    @property
    def losses(self) -> dict[float, float]:
        """The loss at each learning rate, a mean over the seeds."""
        return {lr: sum(run.loss for run in runs) / len(runs) for lr, runs in self.outcomes.items()}

    @property
    def chosen(self) -> float | None:
        """The learning rate with the lowest loss; None where all trials diverged, failed or were killed."""
        return best_lr(self.losses)

    @property
    def at_boundary(self) -> bool:
        """Whether the best learning rate may lie beyond those that were tried."""
        return self.chosen is not None and is_at_boundary(self.chosen, self.losses)

    def overrides(self, lr: float) -> list[list[str]]:
        """Returns those of each run of a trial."""
        return [[*run, f"{self.parameter}={lr}"] for run in self.runs]

    def settings(self) -> dict[str, Any]:
        """Returns what two searches with equal tuning budgets have in common."""
        settings = {"parameter": self.parameter, **asdict(self.rule), "seeds": len(self.runs)}
        return {**settings, "duration": self.duration, "over_last": self.over_last}

    def stage(self, lr: float) -> int:
        """Returns the stage of the rule, 1 or 2, in which a learning rate was tried."""
        return 1 if lr in self.rule.next_lrs({}) else 2

    def status(self, lr: float) -> str:
        """Returns the status of a trial's runs: one word where all have the same."""
        number = Counter(run.status for run in self.outcomes[lr])
        return next(iter(number)) if len(number) == 1 else ", ".join(f"{n} {word}" for word, n in number.items())


def read_outcome(sweep: Path, job: dict[str, Any], over_last: int) -> RunOutcome:
    """Returns the outcome of a run that has ended.

    Args:
        sweep: its folder.
        job: {folder, overrides, fingerprint} of the run.
        over_last: steps at the end of a run whose training records count.

    Raises:
        UserError: the folder holds another run, or its records cannot be read.
    """
    name = job["folder"]
    state = job_status(sweep, name, job, alive=False).state
    if state == "outdated":
        raise UserError(
            f"{shown(sweep / name)}: holds a run with another configuration or of other code, so no"
            " learning rate is chosen; remove it, or give hydra.sweep.dir=DIR for a new search"
        )
    status = STATUS.get(state, state)
    return RunOutcome(name, status, end_loss(sweep / name, over_last) if status == "finished" else math.inf)


def end_loss(folder: Path, over_last: int) -> float:
    """Returns the mean of `total` over the training records of the last steps; infinite where one is not finite."""
    try:
        totals = {record["step"]: record["total"] for record in read_metrics(folder, "train")}
        losses = [total for step, total in totals.items() if step > max(totals) - over_last]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{shown(folder / METRICS_FILE)}: is missing or damaged; remove the folder") from error
    return math.inf if None in losses else sum(losses) / len(losses)


class Competitor(ABC):
    """A method of a tournament.

    Attributes:
        name: the overrides that not all methods have.
        typed: its overrides, without the seed and what is searched.
        is_tuned: False: nothing of it is searched; it has no trials, and final runs as it is.
    """

    name: str
    typed: list[str]
    is_tuned: bool

    @property
    @abstractmethod
    def best(self) -> list[str] | None:
        """The overrides that its search chose; None where every trial diverged, failed or was killed."""

    @abstractmethod
    def trial_entries(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the present entries of a job in the plan that is a trial of this method; None of others."""

    def final_overrides(self, seed: int, best: list[str]) -> list[str]:
        """Returns the overrides of a final run.

        Args:
            seed: of the run.
            best: as `best`.
        """
        return [*self.typed, *best, f"{SEED}={seed}"]

    def final_entries(self) -> dict[str, Any]:
        """Returns the entries of its final runs in the plan."""
        return {"role": FINAL, "method": self.name}


@dataclass(eq=False)
class TunedMethod(Search, Competitor):
    """A method of a tournament whose learning rate is searched by a rule.

    Attributes:
        typed: as of `Competitor`.
        is_tuned: False: it has no such parameter, as its optimizer computes the learning rate itself.
        final_duration: of a final run.
    """

    typed: list[str] = field(default_factory=list)
    is_tuned: bool = True
    final_duration: str = ""

    @property
    def best(self) -> list[str] | None:
        """As of `Competitor`."""
        if not self.is_tuned:
            return []
        return None if self.chosen is None else [f"{self.parameter}={self.chosen}"]

    def trial_entries(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """As of `Competitor`; a trial at a learning rate outside of the grid keeps the settings of its own search."""
        *run, last = job["overrides"]
        if run not in self.runs:
            return None
        is_in_grid = float(split_override(last)[2]) in self.rule.all_lrs()
        return {"role": TRIAL, "method": self.name, **({"search": self.settings()} if is_in_grid else {})}


@dataclass(eq=False)
class SearchedMethod(Competitor):
    """A method of a tournament whose space is searched by trials.

    Attributes:
        name: as of `Competitor`.
        typed: as of `Competitor`.
        is_tuned: False: its space has no key that its overrides leave open.
        settings: what two searches with equal tuning budgets have in common.
        content: of its search.json, which says what was chosen; None until all trials have ended.
    """

    name: str
    typed: list[str]
    is_tuned: bool
    settings: dict[str, Any]
    content: dict[str, Any] | None = None

    @property
    def best(self) -> list[str] | None:
        """As of `Competitor`."""
        if not self.is_tuned:
            return []
        best = None if self.content is None else self.content["best"]
        return None if best is None else [f"{key}={value}" for key, value in best["params"].items()]

    @property
    def folder(self) -> str:
        """Of its search.json and the figures, relative to the sweep's."""
        return searches_folder(self.name)

    def final_entries(self) -> dict[str, Any]:
        """As of `Competitor`; with the number of trials, where it has any."""
        number = {} if self.content is None else {"trials": len(self.content["trials"])}
        return {**super().final_entries(), **number}

    def entries(self) -> dict[str, Any]:
        """Returns the entries of its trials in the plan."""
        return {"role": TRIAL, "method": self.name, "search": self.settings}

    def trial_entries(self, job: dict[str, Any]) -> dict[str, Any] | None:
        """As of `Competitor`."""
        is_mine = "trial" in job and job.get("method") == self.name
        return self.entries() if is_mine else None


@dataclass
class SearchResult:
    """The result of a learning-rate search: one search for each combination of the other swept values."""

    searches: list[Search]


@dataclass
class TournamentResult:
    """The result of a tournament.

    Attributes:
        methods: with their searches.
        settings: of the searches.
        tuning_seeds: of the trials.
        seeds: of the final runs.
    """

    methods: Sequence[Competitor]
    settings: dict[str, Any]
    tuning_seeds: list[int]
    seeds: list[int]


def searches_folder(method: str) -> str:
    """Returns the folder of a method's search.json, relative to that of the tournament."""
    return f"{SEARCHES}/{folder_name(method.split())}"
