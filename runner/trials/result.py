"""The result of a search with Optuna, on the screen. Needs no Optuna."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..system.display import plain_table, print_table
from ..system.errors import FAILED
from ..system.files import plural, shown

FILE = "search.json"
# of the importance of keys, at least: of three keys, one without effect gets up to 0.34 from 16 trials, 0.21 from 32,
# and 0.06 from 64 (the highest of 12 random searches each)
IMPORTANCE_TRIALS = 32
SHOWN = 10  # of the best trials


@dataclass
class TrialSearchResult:
    """The result of a search.

    Attributes:
        content: of search.json.
        files: names of the others.
    """

    content: dict[str, Any]
    files: list[str]


def show_trials(folder: Path, result: TrialSearchResult) -> int:
    """Prints the best trials and what was chosen; returns the exit code, which says whether a value was chosen."""
    content, console = result.content, Console(highlight=False)
    table = plain_table("trial", content["metric"], *content["space"], left=0)
    for trial in best_first(content["trials"], content["direction"])[:SHOWN]:
        table.add_row(str(trial["number"]), short(trial["value"]), *(short(v) for v in trial["params"].values()))
    print_table(console, table, markup=False)
    files = f"files: {shown(folder)}/ ({', '.join([FILE, *result.files])})"
    for line in [*conclusions(content), files]:
        console.print(line, markup=False, soft_wrap=True)
    return exit_code(content)


def best_first(trials: list[dict[str, Any]], direction: str) -> list[dict[str, Any]]:
    """Returns the finished ones among trials of search.json, the best first."""
    sign = 1 if direction == "minimize" else -1
    ended = [trial for trial in trials if trial["state"] == "finished"]
    return sorted(ended, key=lambda trial: sign * trial["value"])


def exit_code(content: dict[str, Any]) -> int:
    """Returns 0 where a value was chosen: a trial that failed is an outcome, as one that diverged."""
    return FAILED if content["best"] is None else 0


def conclusions(content: dict[str, Any]) -> list[str]:
    """Returns how many trials there are, what was chosen, and a warning where the space may be too small, a line each.

    Args:
        content: of search.json.
    """
    number = Counter(trial["state"] for trial in content["trials"])
    states = ", ".join(f"{count} {state}" for state, count in number.items())
    lines = [f"{plural(len(content['trials']), 'trial')}: {states}"]
    if number["failed"]:
        what = f"{number['failed']} failed, which counts as a miss"
        lines.append(f"{what}; trainopt status says why, and the same command tries again")
    best = content["best"]
    if best is None:
        lines.append("nothing is chosen: every trial diverged or failed")
    else:
        chosen = " ".join(f"{key}={value}" for key, value in best["params"].items())
        lines.append(f"best: trial {best['number']}, {content['metric']} {short(best['value'])}: {chosen}")
    for key in content["at_boundary"]:
        searched = content["space"][key.partition("[")[0]]
        lines.append(f"warning: the best {key} lies near a boundary of {searched}; a better one may lie beyond it")
    return lines


def short(value: Any) -> str:
    """Returns a value with four digits at most."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
