"""From folders to a comparison: the runs that compete, and the searches that tuned them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..records.frames import load_folders, run_folders
from ..records.job_table import ENDED, SweepJobs, is_trial, read_jobs, sweep_jobs
from ..search.tuning_budget import FINAL, TRIAL, Entrant, methods_without_lr, read_entrants, unequal_budget
from ..system.errors import UserError
from ..system.files import plural, shown
from .code_versions import code_obstacles, code_versions
from .methods import Comparison, compare_methods, exclusion_reason
from .records.thin_records import thin_records
from .setting import last_change
from .tuning.chosen import final_value
from .tuning.effort import add_effort, add_trials
from .tuning.searches import read_searches


def read_comparison(
    paths: Iterable[Path],
    tuning: Sequence[Path] = (),
    progress: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders,
    **options: Any,
) -> Comparison:
    """Compares the runs at and below these paths; of tournaments the final runs, with their trials as tuning.

    Args:
        paths: of runs, of sweeps, or of folders with runs below them.
        tuning: the same, of learning-rate searches.
        progress: wraps lists of folders, as a progress bar does.
        options: for `compare_methods`: by, baseline, metric, target and renames.

    Raises:
        UserError: a tournament has no final run yet; or as `compare_methods`.
    """
    folders = run_folders(paths)
    jobs = sweep_jobs(folders)
    entrants = read_entrants(jobs)
    competing = competing_folders(folders, jobs, entrants)
    one = all(folder in entrants for folder in competing) and len({e.sweep for e in entrants.values()}) == 1
    by_plan = one and not options.get("by") and not tuning
    names = {shown(folder): entrants[folder].method for folder in competing} if by_plan else {}
    searches, problems = read_searches(entrants.values()) if by_plan else ({}, [])
    search_values: dict[str, float] = {}

    def thinned(records: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
        run = records["run"].iloc[0] if len(records) else ""
        if (search := searches.get(names.get(run, ""))) is not None:
            search_values[run] = final_value(records, search)
        return thin_records(records, summary["best_on"], options.get("target"))

    runs = load_folders(competing, exclusion_reason, progress, thinned)
    runs.problems += searches_left_out(jobs)
    comparison = compare_methods(runs, names=names if by_plan else None, **options)
    comparison.searches, comparison.search_values = searches, search_values
    comparison.obstacles += runs.inconsistencies.values()
    runs.problems += [*methods_without_lr(entrants.values()), *problems]
    trials = {folder: e.method for folder, e in entrants.items() if e.role == TRIAL}
    if by_plan:
        methods = {shown(folder): method for folder, method in trials.items()}
        chosen = {shown(run): search for search in searches.values() for run in search.chosen_runs}
        changes: dict[str, float] = {}

        def measured(records: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
            run = records["run"].iloc[0] if len(records) else ""
            if run in chosen:
                kind, _, column = chosen[run].metric.partition(" ")
                changes[run] = last_change(records, kind, column.replace(" ", "_"))
            return without_records(records, summary)

        trial_runs = load_folders(list(trials), progress=progress, thin=measured)
        add_trials(comparison, trial_runs, methods, changes)
        comparison.obstacles += trial_runs.inconsistencies.values()
        final = code_versions(runs.environments)
        both = code_versions(pd.concat([runs.environments, trial_runs.environments]))
        comparison.obstacles += code_obstacles(both.drop(columns=final.columns))
    elif trials or tuning:
        folders = list(dict.fromkeys([*run_folders(tuning), *trials]))
        trial_runs = load_folders(folders, progress=progress, thin=without_records)
        add_effort(comparison, trial_runs)
        comparison.obstacles += trial_runs.inconsistencies.values()
    tuned = tuned_runs(entrants)
    for method in comparison.methods:
        method.is_tuned = not tuned.isdisjoint(method.runs) or bool(tuning and method.trial_count)
    durations_differ = "duration" in (*comparison.differing, *comparison.unnamed)
    comparison.obstacles += unequal_budget(entrants.values(), durations_differ)
    return comparison


def without_records(records: pd.DataFrame, summary: dict[str, Any]) -> pd.DataFrame:
    """Returns no records: of trials, the summaries count."""
    del summary
    return records.iloc[:0]


def competing_folders(folders: list[Path], jobs: SweepJobs, entrants: dict[Path, Entrant]) -> list[Path]:
    """Returns the folders of runs that are compared: no trials, and of a tournament only final runs that have ended.

    Args:
        folders: of all runs.
        jobs: those of them that are jobs of a sweep.
        entrants: those of them that are jobs of a tournament.

    Raises:
        UserError: a tournament has no final run yet, or all runs are trials of a search.
    """
    tournaments = dict.fromkeys(e.sweep for e in entrants.values())
    for sweep in tournaments:
        if not any(e.role == FINAL for e in entrants.values() if e.sweep == sweep):
            raise UserError(f"{shown(sweep)}: has no final run yet; the same command goes on with the tournament")
    out = {folder for folder, (sweep, job) in jobs.items() if sweep in tournaments or is_trial(job)}
    ended = {folder for folder, e in entrants.items() if e.role == FINAL and e.state in ENDED}
    competing = [folder for folder in folders if folder in ended or folder not in out]
    if folders and not competing and not tournaments:
        sweep = next(iter(jobs.values()))[0]
        raise UserError(f"{shown(sweep)}: holds only trials of a search; --tuning {shown(sweep)} counts their cost")
    return competing


def tuned_runs(entrants: dict[Path, Entrant]) -> set[str]:
    """Returns the final runs of tournaments whose plan has trials of the method; the trials need not be read."""
    sweeps = {entrant.sweep for entrant in entrants.values()}
    tried = {(sweep, job["method"]) for sweep in sweeps for job in read_jobs(sweep) if job.get("role") == TRIAL}
    return {shown(folder) for folder, e in entrants.items() if e.role == FINAL and (e.sweep, e.method) in tried}


def searches_left_out(jobs: SweepJobs) -> list[tuple[str, str]]:
    """Returns (sweep, reason) of the searches whose trials are among these jobs; tournaments have final runs."""
    numbers = Counter(sweep for sweep, job in jobs.values() if is_trial(job) and "role" not in job)
    text = "{} of a search, and no runs to compare; --tuning counts their cost"
    return [(shown(sweep), text.format(plural(number, "trial"))) for sweep, number in numbers.items()]
