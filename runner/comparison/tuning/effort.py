"""The effort that went into the learning rates of the methods that are compared."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ...config.overrides import split_override
from ...records.frames import Runs
from ...records.job_table import sweep_jobs
from ...system.files import plural, shown
from ..differences import CHOICES_WITH_KEYS, configs_as_text, varied_keys
from ..methods import Comparison, Method, gradient_equivalents


def add_effort(comparison: Comparison, tuning: Runs) -> None:
    """Counts for each method the runs of learning-rate searches with its choices, and their cost.

    For a run of a sweeper's search rule, the plan says which key was searched. Such a run belongs to a method only
    if all other keys that differ between the methods agree too, as the iterations of two variants of an optimizer.
    Unequal effort is added to the obstacles.

    Args:
        comparison: its methods get their `trials` and `trial_gradients`.
        tuning: all runs of the searches, whatever their status.
    """
    methods, configs = comparison.methods, comparison.runs.configs
    jobs = sweep_jobs(Path(run).resolve() for run in tuning.summaries.index)
    entries = {run: jobs.get(Path(run).resolve(), (None, {}))[1] for run in tuning.summaries.index}
    searches = {run: entry["search"] for run, entry in entries.items() if "search" in entry}
    if not tuning.summaries.empty:
        text, tried = configs_as_text(configs), configs_as_text(tuning.configs)
        choices = [key for key in configs if key.startswith("choices.") and key in tried]
        keys = [key for key in choices if key not in CHOICES_WITH_KEYS]
        searched = {run: searched_keys(entry) for run, entry in entries.items()}
        if any(searched.values()):
            all_searched = set().union(*searched.values())
            others = [key for key in comparison.differing if key in tried and key not in (*keys, *all_searched)]
            keys += [key for key in others if set(text[key]) & set(tried[key])]
        cost = gradient_equivalents(tuning.summaries)
        for method in methods:
            trials = tried.index[(tried[keys] == text.loc[method.runs[0], keys]).all(axis=1)]
            method.trials, method.trial_gradients = list(trials), int(cost.loc[trials].sum())
            method.trial_count = count_points(tuning.configs.loc[trials])
            method.tuned_keys = set().union(*(searched[trial] for trial in trials))
    comparison.obstacles += unequal_effort(methods, searches)


def add_trials(comparison: Comparison, trials: Runs, methods: dict[str, str], changes: dict[str, float]) -> None:
    """Counts for each method its trials and their cost, where the plan of a tournament says which these are.

    Args:
        comparison: as for `add_effort`.
        trials: all runs of the searches, whatever their status.
        methods: the name of the method of each run.
        changes: of the metric of chosen trials between their last two evaluations, by run.
    """
    for method in comparison.methods:
        search = comparison.searches.get(method.name)
        method.tuned_keys = bare_keys(search.best) if search else set()
    if trials.summaries.empty:
        return
    cost = gradient_equivalents(trials.summaries)
    held_out = trials.summaries.get("validation_images", pd.Series(dtype=float)).dropna().unique()
    comparison.trial_validation_samples = int(held_out[0]) if len(held_out) == 1 else None
    for method in comparison.methods:
        method.trials = [run for run in cost.index if methods.get(run) == method.name]
        method.trial_gradients = int(cost.loc[method.trials].sum())
        method.trial_count = count_points(trials.configs.loc[method.trials])
        search = comparison.searches.get(method.name)
        if search is None:
            continue
        if search.kind != "rule":  # trials of one point share its runs
            method.trial_count = len(search.trials)
        chosen = [shown(run) for run in search.chosen_runs]
        change = pd.Series([changes.get(run) for run in chosen], dtype=float).mean()
        search = replace(search, chosen_change=float(change))
        summaries = trials.summaries.reindex(chosen)
        losses, steps = summaries.get("final.loss"), summaries.get("steps")
        if losses is not None and losses.notna().any():
            search = replace(search, chosen_test_loss=float(losses.mean()))
        if steps is not None and steps.notna().any():
            search = replace(search, chosen_steps=float(steps.max()))
        comparison.searches[method.name] = search


def count_points(configs: pd.DataFrame) -> int:
    """Returns the number of trials among runs of searches: the seed makes no other trial, nor does a run's name."""
    text = configs_as_text(configs)
    return len({tuple(values) for values in text[varied_keys(text)].to_numpy()})


def searched_keys(entry: dict[str, Any]) -> set[str]:
    """Returns the keys that were searched, from the plan's entry of a trial; none where it is no trial."""
    search = entry.get("search", {})
    return bare_keys([search["parameter"]] if "parameter" in search else entry.get("searched", []))


def bare_keys(keys: Iterable[str]) -> set[str]:
    """Returns keys without the signs that add them.

    >>> bare_keys(["+optimizer.width"])
    {'optimizer.width'}
    """
    return {split_override(f"{key}=")[1] for key in keys}


def unequal_effort(methods: list[Method], searches: dict[str, dict[str, Any]]) -> list[str]:
    """Returns in a line why the methods were not tuned with equal effort; empty if they were.

    Searches by a sweeper's rule must have the same grid, seeds and length of a trial; the number of trials may
    differ, as the rule decides it, but not in searches by trials.

    Args:
        methods: with their trials.
        searches: the plan's entry of each search, by run.
    """
    rules = [searches.get(run, {}) for method in methods for run in method.trials]
    if all(rules) and all(method.trials for method in methods):
        differ = [key for key in rules[0] if len({str(rule.get(key)) for rule in rules}) > 1]
        if not differ and "parameter" not in rules[0] and len({method.trial_count for method in methods}) > 1:
            counts = (f"{method.name} {plural(method.trial_count, 'trial')}" for method in methods)
            return [f"unequal tuning effort: {', '.join(counts)}"]
        return [f"the learning rates were searched for with different {', '.join(differ)}"] if differ else []
    if len({(m.trial_count, m.trial_gradients) for m in methods}) == 1:
        return []
    efforts = (f"{m.name} {plural(m.trial_count, 'trial')} ({m.trial_gradients:,} gradients)" for m in methods)
    return [f"unequal tuning effort: {', '.join(efforts)}"]
