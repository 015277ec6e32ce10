"""The searches that tuned the methods of a tournament, read from their files. Needs no Optuna."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...config.overrides import split_override
from ...search.search import searches_folder
from ...search.search_report import STEM, json_name
from ...search.tuning_budget import FINAL, TRIAL, Entrant
from ...system.files import read_json
from ...trials.boundary import boundary_keys
from ...trials.result import FILE, IMPORTANCE_TRIALS

FIGURES = {
    "history": "Trials and the best so far",
    "slice": "Loss vs. each key; darker: later trials, ring: the best",
    "importance": "Importance of the keys, roughly: of one without effect up to 0.2 from 32 trials, 0.1 from 64",
}


class Trial(NamedTuple):
    """A trial of a search: how it ended, its metric (infinite where it has none), and the value of each key as text."""

    state: str
    value: float
    params: dict[str, str]


@dataclass(frozen=True)
class MethodSearch:
    """The search that tuned a method.

    Attributes:
        kind: rule, random, qmc or tpe.
        metric: by which trials were compared, in words.
        trials: all of them, in their order.
        best: the chosen value of each key that was searched, as text.
        ranges: what was searched of each key, as text.
        at_boundary: keys whose best value lies at a boundary, as of `boundary_keys`.
        duration: of a trial.
        seeds: of a trial.
        validation: the fraction of the training set that trials were compared on, as it was typed; None: not typed.
        sampler_seed: None for the rule.
        figures: files by their captions, which may be missing.
        over_last: of the rule: steps at the end of a run, whose mean training loss is the metric; None: of no rule.
        chosen_runs: folders of the runs of the chosen trial.
        chosen_test_loss: of the chosen trial, a mean over its seeds; None: not known.
        chosen_steps: the number of steps of the chosen trial; None: not known.
        chosen_change: of the metric of the chosen trial between its last two evaluations, a mean over its seeds.
    """

    kind: str
    metric: str
    trials: list[Trial]
    best: dict[str, str]
    ranges: dict[str, str]
    at_boundary: list[str]
    duration: str
    seeds: list[int]
    validation: str | None
    sampler_seed: int | None
    figures: dict[str, Path]
    over_last: int | None = None
    chosen_runs: tuple[Path, ...] = ()
    chosen_test_loss: float | None = None
    chosen_steps: float | None = None
    chosen_change: float = math.nan

    @property
    def values(self) -> list[float]:
        """The metric of each trial."""
        return [trial.value for trial in self.trials]

    @property
    def states(self) -> Counter[str]:
        """How many trials ended in which state."""
        return Counter(trial.state for trial in self.trials)

    @property
    def best_value(self) -> float:
        """The metric of the best trial."""
        return min(self.values)


def read_searches(entrants: Iterable[Entrant]) -> tuple[dict[str, MethodSearch], list[tuple[str, str]]]:
    """Returns the searches of the methods of a tournament, by their names.

    Args:
        entrants: all jobs of one tournament.

    Returns:
        The searches; and (method, reason) of those whose files are missing, or are not of the present final runs.
    """
    entrants = list(entrants)
    searches, problems = {}, []
    finals = {e.method: e for e in entrants if e.role == FINAL}
    for method, final in finals.items():
        trials = [e for e in entrants if e.role == TRIAL and e.method == method and e.search]
        if not trials:
            continue
        search = read_search(final.sweep, method, trials)
        if search is None:
            problems.append((method, "the file of its search is missing; the same command writes it"))
        elif any(final.typed.get(split_override(f"{key}=")[1]) != value for key, value in search.best.items()):
            problems.append((method, "its search went on after its final runs; the same command makes new ones"))
        else:
            searches[method] = search
    return searches, problems


def read_search(sweep: Path, method: str, trials: list[Entrant]) -> MethodSearch | None:
    """Returns the search of a method; None where its file is missing.

    Args:
        sweep: the tournament's folder.
        method: its name.
        trials: its jobs that are trials of its search.
    """
    settings = trials[0].search
    common: dict[str, Any] = {
        "duration": settings["duration"],
        "seeds": sorted({trial.seed for trial in trials}),
        "validation": trials[0].typed.get("data.validation"),
    }
    if "parameter" in settings:
        content = read_json(sweep / json_name(method))
        if content.get("chosen") is None:
            return None
        key, grid = content["parameter"], f"{content['base']}^-i for i in {content['exponents']}"
        return MethodSearch(
            kind="rule",
            metric=f"mean training loss over the last {content['over_last']} steps",
            trials=[Trial(t["status"], metric_value(t["loss"]), {key: str(t["lr"])}) for t in content["trials"]],
            best={key: str(content["chosen"])},
            ranges={key: f"{grid}; n times the best, n in {content['factors']}, while the loss falls"},
            at_boundary=[key] if content["at_boundary"] else [],
            sampler_seed=None,
            figures={"Loss vs. learning rate": sweep / f"{STEM}.png"},
            over_last=content["over_last"],
            chosen_runs=tuple(
                sweep / r["folder"] for t in content["trials"] if t["lr"] == content["chosen"] for r in t["runs"]
            ),
            **common,
        )
    folder = sweep / searches_folder(method)
    content = read_json(folder / FILE)
    if content.get("best") is None:
        return None
    best = {key: str(value) for key, value in content["best"]["params"].items()}
    space = content["space"]
    return MethodSearch(
        kind=content["sampler"],
        metric=content["metric"].replace("_", " "),
        trials=[
            Trial(t["state"], metric_value(t["value"]), {key: str(value) for key, value in t["params"].items()})
            for t in content["trials"]
        ],
        best=best,
        ranges=space,
        at_boundary=[end for key, value in best.items() for end in boundary_keys(key, value, space[key])],
        sampler_seed=content["seed"],
        figures={
            title: folder / f"search_{name}.png"
            for name, title in FIGURES.items()
            if name != "importance" or len(content["trials"]) >= IMPORTANCE_TRIALS
        },
        chosen_runs=tuple(sweep / run for run in content["best"].get("runs", ())),
        **common,
    )


def metric_value(value: float | None) -> float:
    """Returns the metric of a trial; infinite where it diverged or failed, and has none."""
    return math.inf if value is None else value
