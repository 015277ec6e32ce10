"""The searches that tuned the methods of a tournament, read from their files. Needs no Optuna."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.overrides import split_override
from ...search.search import searches_folder
from ...search.search_report import STEM, json_name
from ...search.tuning_budget import FINAL, TRIAL, Entrant
from ...system.files import read_json
from ...trials.result import FILE

FIGURES = {"history": "Trials and the best so far", "slice": "Loss vs. each key; darker: later trials, ring: the best"}


@dataclass(frozen=True)
class MethodSearch:
    """The search that tuned a method.

    Attributes:
        kind: rule, random, qmc or tpe.
        metric: by which trials were compared, in words.
        values: the metric of each trial, in their order; infinite where a trial diverged or failed.
        states: how many trials ended in which state.
        best: the chosen value of each key that was searched, as text.
        ranges: what was searched of each key, as text.
        at_boundary: keys whose best value lies at a boundary of its range.
        duration: of a trial.
        seeds: of a trial.
        validation: the fraction of the training set that trials were compared on, as it was typed; None: not typed.
        sampler_seed: None for the rule.
        figures: files by their captions, which may be missing.
    """

    kind: str
    metric: str
    values: list[float]
    states: Counter[str]
    best: dict[str, str]
    ranges: dict[str, str]
    at_boundary: list[str]
    duration: str
    seeds: list[int]
    validation: str | None
    sampler_seed: int | None
    figures: dict[str, Path]

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
        losses = [entry["loss"] for entry in content["trials"]]
        return MethodSearch(
            kind="rule",
            metric=f"mean training loss over the last {content['over_last']} steps",
            values=[math.inf if loss is None else loss for loss in losses],
            states=Counter(entry["status"] for entry in content["trials"]),
            best={key: str(content["chosen"])},
            ranges={key: f"{grid}; n times the best, n in {content['factors']}, while the loss falls"},
            at_boundary=[key] if content["at_boundary"] else [],
            sampler_seed=None,
            figures={"Loss vs. learning rate": sweep / f"{STEM}.png"},
            **common,
        )
    folder = sweep / searches_folder(method)
    content = read_json(folder / FILE)
    if content.get("best") is None:
        return None
    return MethodSearch(
        kind=content["sampler"],
        metric=content["metric"].replace("_", " "),
        values=[math.inf if trial["value"] is None else trial["value"] for trial in content["trials"]],
        states=Counter(trial["state"] for trial in content["trials"]),
        best={key: str(value) for key, value in content["best"]["params"].items()},
        ranges=content["space"],
        at_boundary=content["at_boundary"],
        sampler_seed=content["seed"],
        figures={title: folder / f"search_{name}.png" for name, title in FIGURES.items()},
        **common,
    )
