"""What searches of a learning rate found: lr_heuristic.json, a table and a picture. Needs no torch."""

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..config.run_names import folder_name
from ..system.display import plain_table
from ..system.errors import FAILED
from ..system.files import shown, write_json
from .search import Search

NAME = "lr_heuristic"
COLOURS = {"finished": "green", "diverged": "yellow"}


def write_searches(folder: Path, searches: list[Search]) -> None:
    """Writes a JSON file for each search into the sweep's folder, and one picture."""
    for search in searches:
        write_json(folder / f"{file_name(search)}.json", as_json(search))
    draw(searches, folder / f"{NAME}.png")


def file_name(search: Search) -> str:
    """Returns what the file of a search is called, without what comes after the dot."""
    return folder_name([NAME, *search.name.split()])


def as_json(search: Search) -> dict[str, Any]:
    """Returns the content of a search's JSON file."""
    trials = [
        {
            "lr": rate,
            "loss": search.losses[rate],
            "stage": search.stage(rate),
            "status": search.status(rate),
            "runs": [vars(found) for found in outcomes],
        }
        for rate, outcomes in search.outcomes.items()
    ]
    return {**search.described(), "trials": trials, "chosen": search.chosen, "edge": search.at_edge}


def show_searches(folder: Path, searches: list[Search]) -> int:
    """Prints what each search found; returns the exit code, which says whether all chose a rate."""
    console = Console(highlight=False)
    for search in searches:
        console.print(table_of(search))
        for line in conclusion(search):
            console.print(line, markup=False, soft_wrap=True)
    names = ", ".join(f"{file_name(search)}.json" for search in searches)
    console.print(f"files: {shown(folder)}/ ({NAME}.png, {names})", markup=False, soft_wrap=True)
    return FAILED if any(search.chosen is None for search in searches) else 0


def table_of(search: Search) -> Table:
    """Returns the trials by their rate."""
    title = search.name.replace("[", r"\[") or None
    table = plain_table(search.parameter, "loss", "stage", left=0)
    table.title, table.title_justify = title, "left"
    table.add_column("status", no_wrap=True)
    for rate in sorted(search.outcomes):
        loss, status = search.losses[rate], search.status(rate)
        mark = "  chosen" if rate == search.chosen else ""
        text = f"[{COLOURS.get(status, 'red')}]{status}[/]{mark}"
        table.add_row(f"{rate}", f"{loss:.6g}" if loss < math.inf else "", str(search.stage(rate)), text)
    return table


def conclusion(search: Search) -> list[str]:
    """Returns what a search found, and what to be careful about, a line each."""
    of = f" with {search.name}" if search.name else ""
    best = search.chosen
    if best is None:
        return [f"no {search.parameter} was found{of}: every trial diverged, failed or was killed"]
    seeds = f", {len(search.runs)} seeds" if len(search.runs) > 1 else ""
    what = f"mean training loss over the last {search.over_last} steps, duration={search.duration}{seeds}"
    lines = [f"chosen{of}: {search.parameter}={best} ({what}: {search.losses[best]:.6g})"]
    if search.at_edge:
        exponents = list(search.rule.exponents)
        above = best == max(search.losses)
        wider = [min(exponents) - 1, *exponents] if above else [*exponents, max(exponents) + 1]
        lines.append(
            f"careful: {best} is the {'highest' if above else 'lowest'} rate that was tried, and the best may lie"
            f" beyond it; widen the grid, in the same way for all that are compared:"
            f" 'hydra.sweeper.exponents={json.dumps(wider, separators=(',', ':'))}'"
        )
    return lines


def draw(searches: list[Search], path: Path) -> None:
    """Draws the loss against the rate; what has none, or one far above the others, stands at the top."""
    import numpy as np
    from matplotlib.figure import Figure

    from ..reporting.style import LOG_SCALE_RATIO, PALETTE, needs_log_scale, style_axes

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    axis.set_xscale("log")
    finite = np.array([loss for search in searches for loss in search.losses.values() if loss < math.inf])
    middle = np.median(finite) if len(finite) else 0.0
    limit = LOG_SCALE_RATIO * middle if middle > 0 else math.inf
    for number, search in enumerate(searches):
        colour, losses = PALETTE[number % len(PALETTE)], search.losses
        rates = sorted(losses)
        shown_rates = [rate for rate in rates if losses[rate] < limit]
        at = [losses[rate] for rate in shown_rates]
        axis.plot(shown_rates, at, "o-", color=colour, markersize=4, label=search.name)
        for mark, there in (
            ("x", [rate for rate in rates if losses[rate] == math.inf]),
            ("^", [rate for rate in rates if limit <= losses[rate] < math.inf]),
        ):
            axis.plot(there, [0.97] * len(there), mark, color=colour, transform=axis.get_xaxis_transform())
        if search.chosen is not None:
            axis.plot([search.chosen], [losses[search.chosen]], "o", color=colour, markersize=11, fillstyle="none")
    if (finite < limit).any() and needs_log_scale(finite[finite < limit]):
        axis.set_yscale("log")
    first = searches[0]
    axis.set_xlabel(f"{first.parameter}  (ring: chosen; x: diverged, failed or killed; triangle: far above)")
    axis.set_ylabel(f"mean training loss, last {first.over_last} steps")
    style_axes(axis)
    if len(searches) > 1:
        axis.legend(frameon=False)
    figure.savefig(path, dpi=120)
