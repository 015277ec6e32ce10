"""From folders to a comparison."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ..records.frames import load_runs, run_folders
from ..records.job_table import ENDED, planned_jobs
from ..sweeps.tuning_budget import FINAL, TRIAL, Entrant, read_entrants, unequal_budget, without_rate
from ..system.errors import UserError
from ..system.files import shown
from .methods import Comparison, compare, usable
from .tuning_effort import add_effort, add_trials


def read_comparison(
    paths: Iterable[Path],
    tuning: Sequence[Path] = (),
    progress: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders,
    **choices: Any,
) -> Comparison:
    """Compares the runs at and below these paths; of tournaments the final runs, whose trials are their tuning.

    Args:
        paths: of runs, of sweeps, or of folders with runs below them.
        tuning: the same, of learning-rate searches.
        progress: wraps lists of folders, as a progress bar does.
        choices: for `comparison.compare`: by, baseline, metric and target.

    Raises:
        UserError: as `comparison.compare`.
    """
    folders = run_folders(paths)
    there = read_entrants(folders)
    competing = competitors(folders, there)
    runs = load_runs(competing if there else paths, usable, progress)
    one = all(folder in there for folder in competing) and len({e.sweep for e in there.values()}) == 1
    by_plan = one and not choices.get("by") and not tuning
    names = {shown(folder): there[folder].method for folder in competing} if by_plan else None
    comparison = compare(runs, names=names, **choices)
    runs.problems += without_rate(there.values())
    trials = {shown(folder): e.method for folder, e in there.items() if e.role == TRIAL}
    if names is not None:
        add_trials(comparison, load_runs(trials, progress=progress), trials)
    elif trials or tuning:
        add_effort(comparison, load_runs([*tuning, *trials], progress=progress))
    comparison.obstacles += unequal_budget(there.values())
    return comparison


def competitors(folders: list[Path], there: dict[Path, Entrant]) -> list[Path]:
    """Returns the folders of runs that are compared: of a tournament's its final runs that came to an end.

    Raises:
        UserError: a tournament has no final run yet.
    """
    sweeps = dict.fromkeys(e.sweep for e in there.values())
    for sweep in sweeps:
        if not any(e.role == FINAL for e in there.values() if e.sweep == sweep):
            raise UserError(f"{shown(sweep)}: has no final run yet; the same command goes on with the tournament")
    apart = {folder for folder, (sweep, _) in planned_jobs(folders).items() if sweep in sweeps}
    ended = {folder for folder, e in there.items() if e.role == FINAL and e.state in ENDED}
    return [folder for folder in folders if folder in ended or folder not in apart]
