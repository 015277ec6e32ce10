"""What a tournament came to: tournament.json and the comparison, told at the end of the sweep."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records.frames import run_folders
from ..sweeps.search_report import conclusion
from ..sweeps.tuning_budget import FINAL, TRIAL, read_entrants, usual_length
from ..system.display import wide_console
from ..system.errors import FAILED, UserError
from ..system.files import shown, write_json
from .methods import Comparison
from .read import read_comparison
from .table import conclude

if TYPE_CHECKING:
    from ..sweeps.search import Method

NAME = "tournament.json"
FOLDER = "comparison"


def tell(folder: Path, methods: list["Method"], tuning_seeds: list[int], seeds: list[int]) -> int:
    """Prints the rates and the table, and write the files; returns the exit code.

    Raises:
        UserError: the methods were not given the same, or no final run came to an end.
    """
    console = wide_console()
    for line in (line for method in methods for line in conclusion(method)):
        console.print(line, markup=False, soft_wrap=True)
    lost = FAILED if any(method.chosen is None for method in methods) else 0
    if all(method.chosen is None for method in methods):
        return lost
    comparison = read_comparison([folder])
    content = {
        "methods": [described(method, comparison, folder) for method in methods],
        "budget": budget(folder, methods[0], tuning_seeds, seeds),
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "comparable": not comparison.obstacles,
        "reasons": comparison.obstacles,
    }
    write_json(folder / NAME, content)
    console.print(f"files: {shown(folder)}/ ({NAME}, lr_heuristic.png)", markup=False, soft_wrap=True)
    if comparison.obstacles:
        raise UserError(
            f"tournament: {'; '.join(comparison.obstacles)};"
            f" trainopt compare {shown(folder)} --force compares all the same"
        )
    conclude(comparison, "epochs", folder / FOLDER, force=False, console=console)
    return lost


def described(method: "Method", comparison: Comparison, folder: Path) -> dict[str, Any]:
    """Returns a method, its search and its figures as JSON's objects and lists."""
    content: dict[str, Any] = {
        "name": method.name,
        "overrides": method.typed,
        "chosen": method.chosen,
        "edge": method.at_edge,
        "losses": [{"lr": rate, "loss": loss} for rate, loss in method.losses.items()],
        "trials": 0,
        "seeds": [],
    }
    for found in comparison.methods:
        if found.name == method.name:
            content |= {
                "trials": len(found.trials),
                "trial_gradients": found.trial_gradients,
                "seeds": found.seeds,
                "diverged": found.diverged,
                "runs": [str(Path(run).resolve().relative_to(folder.resolve())) for run in found.runs],
                "figures": {name: asdict(value) for name, value in found.figures.items()},
                "verdict": asdict(found.verdict) if found.verdict else None,
            }
    return content


def budget(folder: Path, method: "Method", tuning_seeds: list[int], seeds: list[int]) -> dict[str, Any]:
    """Returns what each method was given: as planned, and what most of the finished runs did."""
    there = read_entrants(run_folders([folder])).values()
    parts = {}
    for name, role, own in (("trials", TRIAL, tuning_seeds), ("final_runs", FINAL, seeds)):
        steps, samples = usual_length(there, role) or (None, None)
        parts[name] = {"seeds": own, "steps": steps, "samples": samples}
    return {**method.described(), "seeds": len(tuning_seeds), **parts}
