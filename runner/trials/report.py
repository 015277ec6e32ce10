"""The files of a search with Optuna: search.json, figures, and a page with all of it."""

import math
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..reporting.html import render
from ..reporting.style import SavedFigure
from ..system.files import write_json, write_text
from .boundary import boundary_keys
from .figures import draw_search
from .result import FILE, IMPORTANCE_TRIALS, TrialSearchResult, best_first, conclusions, short
from .space import as_text, override_of
from .study import SearchStudy

PAGE = "report.html"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}


def write_trials(folder: Path, study: SearchStudy, jobs: list[dict[str, Any]], method: str = "") -> TrialSearchResult:
    """Writes search.json, the figures and the page into a folder; returns the result.

    Args:
        folder: of the sweep, or of one of its searches.
        study: of the search.
        jobs: of the trials, in the plan of the sweep.
        method: the label of what was searched, in the titles of figures; empty: it has none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trials = [_as_json(trial, runs_of(trial, jobs)) for trial in study.trials()]
    best = next(iter(best_first(trials, study.settings.direction)), None)
    space = {key: as_text(distribution) for key, distribution in study.space.items()}
    chosen = best["params"] if best is not None else {}
    boundary = [end for key, value in chosen.items() for end in boundary_keys(key, str(value), space[key])]
    content = {
        **vars(study.settings),
        "space": space,
        "trials": trials,
        "best": best,
        "at_boundary": boundary,
        "pruned": [trial["number"] for trial in trials if trial["state"] == "pruned"],
    }
    write_json(folder / FILE, content)
    figures = draw_search(folder, study, method)
    write_text(folder / PAGE, page(content, figures))
    return TrialSearchResult(content, [PAGE, *(figure.png.name for figure in figures)])


def page(content: dict[str, Any], figures: list[SavedFigure]) -> str:
    """Returns the page of a search: what was chosen, its trials, the figures and the space.

    Args:
        content: of search.json.
        figures: of the search.
    """
    ranked = best_first(content["trials"], content["direction"])
    others = [trial for trial in content["trials"] if trial["state"] != "finished"]
    return render(
        "trial_search.html.jinja",
        search=content,
        conclusions=conclusions(content),
        trials=[*ranked, *others],
        figures=figures,
        importance_trials=IMPORTANCE_TRIALS,
        short=short,
    )


def runs_of(trial: FrozenTrial, jobs: list[dict[str, Any]]) -> list[str]:
    """Returns the folders of the runs of a trial; two trials may share them, as a space of choices has few points."""
    point = {override_of(key, value) for key, value in trial.params.items()}
    return [job["folder"] for job in jobs if point <= set(job["overrides"])]


def _as_json(trial: FrozenTrial, runs: list[str]) -> dict[str, Any]:
    diverged = trial.state == TrialState.COMPLETE and trial.value is not None and not math.isfinite(trial.value)
    return {
        "number": trial.number,
        "state": "diverged" if diverged else STATES[trial.state.name],
        "value": trial.value,
        "params": dict(trial.params),
        "intermediate": {str(rung): value for rung, value in trial.intermediate_values.items()},
        "runs": runs,
    }
