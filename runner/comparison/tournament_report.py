"""The end of a tournament: tournament.json, and the comparison of its methods."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..records.frames import run_folders
from ..records.job_table import sweep_jobs
from ..search.search import SEARCHES, Competitor, SearchedMethod, TournamentResult, TunedMethod
from ..search.search_report import STEM, conclusions
from ..search.tuning_budget import FINAL, TRIAL, read_entrants, usual_length
from ..system.display import wide_console
from ..system.errors import FAILED, UserError
from ..system.files import shown, write_json
from ..trials import result as trials
from .methods import Comparison
from .read import read_comparison
from .table import report_comparison

TOURNAMENT_FILE = "tournament.json"


def report_tournament(folder: Path, result: TournamentResult) -> int:
    """Prints what was chosen and the table, and writes the files; returns the exit code.

    Args:
        folder: of the tournament.
        result: what its sweeper returned.

    Raises:
        UserError: the tuning budgets of the methods differ, or no final run came to an end.
    """
    console, methods = wide_console(), result.methods
    for line in (line for method in methods for line in outcome_of(method)):
        console.print(line, markup=False, soft_wrap=True)
    lost = FAILED if any(method.best is None for method in methods) else 0
    if all(method.best is None for method in methods):
        return lost
    comparison = read_comparison([folder])
    content = {
        "methods": [method_as_json(method, comparison, folder) for method in methods],
        "budget": budget_as_json(folder, result),
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "comparable": not comparison.obstacles,
        "reasons": comparison.obstacles,
    }
    write_json(folder / TOURNAMENT_FILE, content)
    others = sorted({SEARCHES if isinstance(method, SearchedMethod) else f"{STEM}.png" for method in methods})
    console.print(f"files: {shown(folder)}/ ({', '.join([TOURNAMENT_FILE, *others])})", markup=False, soft_wrap=True)
    if comparison.obstacles:
        raise UserError(
            f"tournament: {'; '.join(comparison.obstacles)};"
            f" trainopt compare {shown(folder)} --force compares nevertheless"
        )
    report_comparison(comparison, "epochs", folder / "comparison", force=False, console=console)
    return lost


def outcome_of(method: Competitor) -> list[str]:
    """Returns the result of a method's search, one line each."""
    if isinstance(method, TunedMethod):
        if method.is_tuned:
            return conclusions(method)
        return [f"{method.name} has no {method.parameter}: it has no trials, and final runs as it is configured"]
    assert isinstance(method, SearchedMethod)
    if method.content is None:
        return [f"nothing of {method.name} is searched: it has no trials, and final runs as it is configured"]
    return [f"{method.name}: {line}" for line in trials.conclusions(method.content)]


def search_as_json(method: Competitor) -> dict[str, Any]:
    """Returns what a method's search chose as an object of JSON."""
    if isinstance(method, TunedMethod):
        losses = [{"lr": rate, "loss": loss} for rate, loss in method.losses.items()]
        return {"chosen": method.chosen, "at_boundary": method.at_boundary, "losses": losses}
    assert isinstance(method, SearchedMethod)
    if method.content is None:
        return {"chosen": None, "at_boundary": [], "space": {}, "search": None}
    best, boundary, space = (method.content[key] for key in ("best", "at_boundary", "space"))
    chosen = best and best["params"]
    return {"chosen": chosen, "at_boundary": boundary, "space": space, "search": f"{method.folder}/{trials.FILE}"}


def method_as_json(method: Competitor, comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Returns a method, its search and its metrics as an object of JSON."""
    content: dict[str, Any] = {"name": method.name, "overrides": method.typed, **search_as_json(method)}
    content |= {"trials": 0, "seeds": []}
    for compared in comparison.methods:
        if compared.name == method.name:
            content |= {
                "trials": compared.trial_count,
                "trial_gradients": compared.trial_gradients,
                "seeds": compared.seeds,
                "diverged": compared.diverged,
                "runs": [str(Path(run).resolve().relative_to(folder.resolve())) for run in compared.runs],
                "figures": {name: asdict(value) for name, value in compared.estimates.items()},
                "verdict": asdict(compared.verdict) if compared.verdict else None,
            }
    return content


def budget_as_json(folder: Path, result: TournamentResult) -> dict[str, Any]:
    """Returns the budget of each method: as planned, and what most of the finished runs did."""
    entrants = read_entrants(sweep_jobs(run_folders([folder]))).values()
    parts = {}
    for name, role, seeds in (("trials", TRIAL, result.tuning_seeds), ("final_runs", FINAL, result.seeds)):
        steps, samples = usual_length(entrants, role) or (None, None)
        parts[name] = {"seeds": seeds, "steps": steps, "samples": samples}
    return {**result.settings, **parts}
