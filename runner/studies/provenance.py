"""Under which circumstances the runs of a study were made: where, when, for how long, after what tuning."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ..comparison.methods import compare_methods
from ..comparison.report import environment_rows
from ..comparison.tuning_effort import add_effort
from ..records.frames import load_runs
from ..records.job_table import jobs_below
from ..system.display import duration_text
from ..system.errors import UserError
from ..system.files import shown
from .metrics import Figures
from .pictures import short_methods
from .schema import Study

Table = tuple[list[str], list[list[str]]]
DEFAULT_OUT = "outputs/studies"


@dataclass
class Circumstances:
    """What a report ends with.

    Attributes:
        commands: that make it; the first one makes the others.
        sweeps: a table, a row a sweep.
        efforts: a table, a row a method whose learning rate was searched for; no rows where none was.
        careful: why the efforts are not equal, a line each.
        environment: (what, its values, each with the number of runs that have it).
        run_count: how many runs there are.
        dates: of the first run's begin and the last one's end; empty where nothing was run.
    """

    commands: list[str]
    sweeps: Table
    efforts: Table
    careful: list[str] = field(default_factory=list)
    environment: list[tuple[str, list[tuple[Any, int]]]] = field(default_factory=list)
    run_count: int = 0
    dates: list[str] = field(default_factory=list)


def circumstances(study: Study, scale: str, folder: Path, figures: Figures) -> Circumstances:
    """Returns under which circumstances the runs of a study were made.

    Args:
        study: whose.
        scale: at which.
        folder: of the report, OUT/STUDY/SCALE.
        figures: have read the runs.
    """
    out = shown(folder.resolve().parent.parent)
    more = "" if out == DEFAULT_OUT else f" --out {shlex.quote(out)}"
    found = Circumstances(
        [f"trainopt reproduce {study.name} --scale {scale}{more}"],
        (["sweep", "runs", "diverged", "seeds", "time of all"], []),
        (["sweep", "method", "found", "trials", "gradients in trials"], []),
    )
    environments, times = [], []
    for name, sweep in study.sweeps.items():
        if figures.lacking(name) is not None:
            continue
        state = figures.sweeps[name]
        places = {"sweeps": shown(state.folder.parent), "data": "$TRAINOPT_DATA"}
        found.commands.append(f"trainopt -m {' '.join(quoted(text, places) for text in sweep.typed[scale])}")
        runs = figures.runs_of(name).runs
        environments.append(runs.environments)
        times += [path.stat().st_mtime for run in runs.summaries.index for path in moments(Path(run))]
        found.sweeps[1].append(
            [
                name,
                str(len(runs.summaries)),
                str(int((runs.summaries["status"] == "diverged").sum())),
                ranges(sorted({int(seed) for seed in runs.summaries["seed"]})),
                duration_text(float(runs.summaries["wall_seconds"].sum())),
            ]
        )
        rows, careful = effort(name, state.folder, figures)
        found.efforts[1].extend(rows)
        found.careful.extend(careful)
    if environments:
        joined = pd.concat(environments)
        found.environment, found.run_count = environment_rows(joined), len(joined)
        days = [datetime.fromtimestamp(time).date().isoformat() for time in (min(times), max(times))]
        found.dates = list(dict.fromkeys(days))
    return found


def quoted(text: str, places: Mapping[str, str]) -> str:
    """Returns what was typed as a shell takes it, with folders in the place of {sweeps} and {data}."""
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    if "$TRAINOPT_DATA" in text:
        return f'"{text}"'
    return shlex.quote(text)


def moments(run: Path) -> list[Path]:
    """Returns the files whose last changes are a run's begin and end."""
    return [path for path in (run / "environment.json", run / "summary.json") if path.exists()]


def effort(name: str, folder: Path, figures: Figures) -> tuple[list[list[str]], list[str]]:
    """Returns what went into the learning rates of a sweep's methods, a row each, and why it is not equal."""
    trials = {folder / job: about["search"] for job, about in jobs_below(folder).items() if "search" in about}
    if not trials:
        return [], []
    searched = {search["parameter"].lstrip("+") for search in trials.values()}
    try:
        comparison = compare_methods(figures.runs_of(name).runs)
    except UserError as error:
        return [], [f"the sweep {name}: {error}"]
    comparison.obstacles.clear()
    add_effort(comparison, load_runs(trials))
    configs, rows = comparison.runs.configs, []
    for method, short in zip(comparison.methods, short_methods(comparison), strict=True):
        keys = [key for key in sorted(searched) if key in configs]
        rates = [f"{key.rpartition('.')[2]} = {configs.at[method.runs[0], key]}" for key in keys]
        rows.append([name, short.name, ", ".join(rates), str(len(method.trials)), f"{method.trial_gradients:,}"])
    return rows, [f"the sweep {name}: {obstacle}" for obstacle in comparison.obstacles]


def ranges(numbers: list[int]) -> str:
    """Returns rising numbers with those in a row as a range.

    >>> ranges([0, 1, 2, 3, 7])
    '0 to 3, 7'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]} to {part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
