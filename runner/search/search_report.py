"""The results of learning-rate searches: lr_heuristic.json, a table and a figure. Needs no torch."""

import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..config.run_names import folder_name
from ..system.display import plain_table, print_table
from ..system.errors import FAILED
from ..system.files import shown, write_json
from .search import Search

OFF_AXIS_RATIO = 30  # of a loss to the median, above which it is off the axis
STEM = "lr_heuristic"  # of the files
STATUS_COLOURS = {"finished": "green", "diverged": "yellow"}


def write_searches(folder: Path, searches: list[Search]) -> None:
    """Writes a JSON file for each search into the sweep's folder, and one figure."""
    for search in searches:
        write_json(folder / json_name(search.name), search_as_json(search))
    draw_searches(searches, folder)


def json_name(name: str) -> str:
    """Returns the name of the JSON file of a search, which has this name."""
    return f"{folder_name([STEM, *name.split()])}.json"


def search_as_json(search: Search) -> dict[str, Any]:
    """Returns the content of the JSON file of a search."""
    trials = [
        {
            "lr": lr,
            "loss": search.losses[lr],
            "stage": search.stage(lr),
            "status": search.status(lr),
            "runs": [vars(run) for run in runs],
        }
        for lr, runs in search.outcomes.items()
    ]
    return {**search.settings(), "trials": trials, "chosen": search.chosen, "at_boundary": search.at_boundary}


def show_searches(folder: Path, searches: list[Search]) -> int:
    """Prints the result of each search; returns the exit code, which says whether all chose a learning rate."""
    console = Console(highlight=False)
    for search in searches:
        print_table(console, trial_table(search))
        for line in conclusions(search):
            console.print(line, markup=False, soft_wrap=True)
    names = ", ".join(json_name(search.name) for search in searches)
    console.print(f"files: {shown(folder)}/ ({STEM}.png, {names})", markup=False, soft_wrap=True)
    return FAILED if any(search.chosen is None for search in searches) else 0


def trial_table(search: Search) -> Table:
    """Returns a table of the trials, by learning rate."""
    table = plain_table(search.parameter, "loss", "stage", left=0)
    table.title, table.title_justify = search.name.replace("[", r"\[") or None, "left"
    table.add_column("status", no_wrap=True)
    for lr in sorted(search.outcomes):
        loss, status = search.losses[lr], search.status(lr)
        chosen = "  chosen" if lr == search.chosen else ""
        text = f"[{STATUS_COLOURS.get(status, 'red')}]{status}[/]{chosen}"
        table.add_row(f"{lr}", f"{loss:.6g}" if loss < math.inf else "", str(search.stage(lr)), text)
    return table


def conclusions(search: Search) -> list[str]:
    """Returns the result of a search, and a warning where the grid may be too narrow, one line each."""
    where = f" with {search.name}" if search.name else ""
    best = search.chosen
    if best is None:
        return [f"no {search.parameter} was found{where}: every trial diverged, failed or was killed"]
    seeds = f", {len(search.runs)} seeds" if len(search.runs) > 1 else ""
    what = f"mean training loss over the last {search.over_last} steps, duration={search.duration}{seeds}"
    lines = [f"chosen{where}: {search.parameter}={best} ({what}: {search.losses[best]:.6g})"]
    if search.at_boundary:
        exponents = list(search.rule.exponents)
        is_highest = best == max(search.losses)
        extended = [min(exponents) - 1, *exponents] if is_highest else [*exponents, max(exponents) + 1]
        lines.append(
            f"warning: {best} is the {'highest' if is_highest else 'lowest'} value that was tried, and a better one may"
            f" lie beyond it; extend the grid, in the same way for all methods that are compared:"
            f" 'hydra.sweeper.exponents={json.dumps(extended, separators=(',', ':'))}'"
        )
    return lines


def draw_searches(searches: list[Search], folder: Path) -> None:
    """Draws loss vs. learning rate; marks of infinite losses, and of ones far above the others, stand at the top."""
    import numpy as np

    from ..reporting import style
    from ..reporting.method_styles import key_label, method_labels, method_styles

    names = [search.name for search in searches]
    labels, styles = method_labels(names), method_styles(names)
    columns = style.legend_columns(labels.values())
    figure = style.new_figure(3.6, 0.6 + style.legend_height(len(names), columns))
    axis = figure.subplots()
    axis.set_xscale("log")
    finite = np.array([loss for search in searches for loss in search.losses.values() if loss < math.inf])
    median = np.median(finite) if len(finite) else 0.0
    limit = OFF_AXIS_RATIO * median if median > 0 else math.inf
    handles = {}
    for search in searches:
        (colour, line), losses = styles[search.name], search.losses
        lrs = sorted(losses)
        drawn = [lr for lr in lrs if losses[lr] < limit]
        values = [losses[lr] for lr in drawn]
        (handles[labels[search.name]],) = axis.plot(drawn, values, "o", linestyle=line, color=colour, markersize=4)
        for marker, at_top in (
            ("x", [lr for lr in lrs if losses[lr] == math.inf]),
            ("^", [lr for lr in lrs if limit <= losses[lr] < math.inf]),
        ):
            axis.plot(at_top, [0.97] * len(at_top), marker, color=colour, transform=axis.get_xaxis_transform())
        if search.chosen is not None:
            axis.plot([search.chosen], [losses[search.chosen]], "o", color=colour, markersize=11, fillstyle="none")
    if (finite < limit).any() and style.needs_log_scale(finite[finite < limit]):
        axis.set_yscale("log")
    first = searches[0]
    axis.set_xlabel(key_label(first.parameter))
    axis.set_ylabel(f"mean training loss, last {first.over_last} steps")
    style.set_note(axis, "ring: chosen; x: diverged, failed or killed; triangle: far above")
    style.style_axes(axis)
    if len(searches) > 1:
        style.add_legend(figure, handles, columns)
    style.save_figure(figure, STEM, "loss vs. learning rate", folder)
