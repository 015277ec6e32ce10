"""The provenance of a study's runs: commands, dates, durations, tuning effort and environment."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..comparison.methods import compare_methods
from ..comparison.report import environment_rows
from ..comparison.tuning.effort import add_effort
from ..records.frames import load_runs
from ..records.job_table import jobs_below
from ..system.display import duration_text
from ..system.errors import UserError
from ..system.files import shown
from .metrics import MetricReader
from .schema import Study

Table = tuple[list[str], list[list[str]]]
DEFAULT_OUT = "outputs/studies"


@dataclass
class Provenance:
    """The last section of a report.

    Attributes:
        commands: of the study, and of each of its sweeps.
        sweeps: a table with a row for each sweep.
        tuning: a table with a row for each method whose learning rate was searched; no rows without a search.
        warnings: a line for each reason why the tuning efforts are not equal.
        environment: (name, values), each value with the number of runs that have it.
        run_count: number of runs.
        dates: on which the first run began and the last one ended; empty without runs.
    """

    commands: list[str]
    sweeps: Table
    tuning: Table
    warnings: list[str] = field(default_factory=list)
    environment: list[tuple[str, list[tuple[Any, int]]]] = field(default_factory=list)
    run_count: int = 0
    dates: list[str] = field(default_factory=list)


def read_provenance(study: Study, scale: str, folder: Path, reader: MetricReader) -> Provenance:
    """Returns the provenance of a study's runs.

    Args:
        study: that was run.
        scale: at which.
        folder: of the report, OUT/STUDY/SCALE.
        reader: of the study's runs.
    """
    out = shown(folder.resolve().parent.parent)
    more = "" if out == DEFAULT_OUT else f" --out {shlex.quote(out)}"
    provenance = Provenance(
        [f"trainopt reproduce {study.name} --scale {scale}{more}"],
        (["sweep", "runs", "diverged", "seeds", "total time"], []),
        (["sweep", "method", "selected", "trials", "gradients in trials"], []),
    )
    environments = []
    for name, sweep in study.sweeps.items():
        if reader.why_unavailable(name) is not None:
            continue
        state = reader.sweeps[name]
        folders = {"sweeps": shown(state.folder.parent), "data": "$TRAINOPT_DATA"}
        words = [shell_word(override, folders) for override in sweep.typed[scale]]
        provenance.commands.append(f"trainopt -m {' '.join(words)}")
        runs = reader.sweep_runs(name).runs
        environments.append(runs.environments)
        provenance.sweeps[1].append(
            [
                name,
                str(len(runs.summaries)),
                str(int((runs.summaries["status"] == "diverged").sum())),
                ranges(sorted({int(seed) for seed in runs.summaries["seed"]})),
                duration_text(float(runs.summaries["wall_seconds"].sum())),
            ]
        )
        rows, warnings = tuning_rows(name, state.folder, reader)
        provenance.tuning[1].extend(rows)
        provenance.warnings.extend(warnings)
    if environments:
        joined = pd.concat(environments)
        provenance.environment, provenance.run_count = environment_rows(joined), len(joined)
        provenance.dates = days_of(joined)
    return provenance


def shell_word(override: str, folders: Mapping[str, str]) -> str:
    """Returns an override as a shell takes it, with these folders for {sweeps} and {data}."""
    for name, folder in folders.items():
        override = override.replace(f"{{{name}}}", folder)
    if "$TRAINOPT_DATA" in override:
        return f'"{override}"'
    return shlex.quote(override)


def days_of(environments: pd.DataFrame) -> list[str]:
    """Returns the first and the last day (UTC) on which a run was started or resumed; one where they are the same."""
    former = [before for runs in environments.get("earlier", pd.Series(dtype=object)).dropna() for before in runs]
    starts = [*environments.get("started", pd.Series(dtype=object)).dropna(), *(b.get("started") for b in former)]
    days = sorted(start.partition("T")[0] for start in starts if start)
    return list(dict.fromkeys([days[0], days[-1]])) if days else []


def tuning_rows(name: str, folder: Path, reader: MetricReader) -> tuple[list[list[str]], list[str]]:
    """Returns a row for each method of a sweep whose learning rate was searched, and why the efforts are not equal."""
    trials = {folder / job: about["search"] for job, about in jobs_below(folder).items() if "search" in about}
    if not trials:
        return [], []
    searched = {search["parameter"].lstrip("+") for search in trials.values()}
    try:
        comparison = compare_methods(reader.sweep_runs(name).runs)
    except UserError as error:
        return [], [f"the sweep {name}: {error}"]
    comparison.obstacles.clear()
    add_effort(comparison, load_runs(trials))
    configs, rows = comparison.runs.configs, []
    for method in comparison.methods:
        keys = [key for key in sorted(searched) if key in configs]
        rates = [f"{key.rpartition('.')[2]} = {configs.at[method.runs[0], key]}" for key in keys]
        rows.append([name, method.label, ", ".join(rates), str(len(method.trials)), f"{method.trial_gradients:,}"])
    return rows, [f"the sweep {name}: {obstacle}" for obstacle in comparison.obstacles]


def ranges(numbers: list[int]) -> str:
    """Returns increasing integers as text, successive ones as a range.

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
