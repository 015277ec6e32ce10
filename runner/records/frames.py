"""Runs read back as pandas frames. Needs no torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ..config.renamed import with_new_names
from ..system.files import read_json, shown
from .metrics import EVALUATIONS, METRICS, DamagedMetrics, Record, read_records
from .sweep_ledger import jobs_below

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NEEDED = ("status", "fingerprint", "steps", "gradients", "hvps", "train_seconds", "seed", "best_on", "classes")


class RunError(Exception):
    """A folder of which no figures can be taken; its text says why."""


@dataclass
class LoadedRun:
    """What a run left.

    Attributes:
        path: its folder.
        summary: summary.json.
        config: the configuration by dotted key, as in `optimizer.lr`.
        choices: the option of each group, as in {"optimizer": "adam"}.
        environment: environment.json.
        metrics: one row for a row of metrics.jsonl.
        evaluations: one row for a row of evaluations.jsonl, which `trainopt evaluate RUN --follow` writes: as the
            rows of kind `test` and `validation` in `metrics`, with a column `checkpoint`. They stay apart, as
            `summary` and `trainopt compare` know the run's own evaluations only; steps may be in both, with the
            same figures. Empty where nobody followed the run.
    """

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    choices: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    evaluations: pd.DataFrame


@dataclass
class Runs:
    """Many runs as frames, whose rows or column `run` are the runs' folders as text.

    Attributes:
        summaries: one row a run; what is nested has dotted columns, as `final.top1`.
        configs: one row a run, a column a dotted key; `choices.optimizer` and so on beside them.
        environments: one row a run.
        metrics: all rows of all runs, with a column `run`.
        problems: (folder, reason) of what was left out.
    """

    summaries: pd.DataFrame
    configs: pd.DataFrame
    environments: pd.DataFrame
    metrics: pd.DataFrame
    problems: list[tuple[str, str]]


def load_run(path: str | Path) -> LoadedRun:
    """Reads one run; its frame of metrics has a column for everything that any of its rows has.

    Raises:
        RunError: the folder holds no run, or its files are damaged.
    """
    folder = Path(path)
    summary, config, choices, environment = read_header(folder)
    records, evaluations = read_file(folder / METRICS), []
    if (folder / EVALUATIONS).exists():
        evaluations = read_file(folder / EVALUATIONS)
    frames = pd.DataFrame(records), pd.DataFrame(evaluations)
    return LoadedRun(folder, summary, config, choices, environment, *frames)


def load_runs(
    paths: Iterable[str | Path],
    wanted: Callable[[dict[str, Any]], str | None] = lambda summary: None,
    follow: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders,
) -> Runs:
    """Reads the runs in these folders, in those below them, and those that a sweep's plan names.

    Args:
        paths: of runs, of sweeps, or of folders with runs below them.
        wanted: says of a summary why its run is to be left out, or None.
        follow: wraps the list of folders, as a progress bar does.
    """
    summaries, configs, environments, rows = {}, {}, {}, []
    problems = []
    for folder in follow(run_folders(paths)):
        name = shown(folder)
        try:
            summary, config, choices, environment = read_header(folder)
            reason = wanted(summary)
            if reason is not None:
                raise RunError(reason)
            found = read_file(folder / METRICS)
        except RunError as error:
            problems.append((name, str(error)))
            continue
        for row in found:
            row["run"] = name
        rows += found
        summaries[name] = dict(flat(summary))
        configs[name] = {**config, **{f"choices.{group}": option for group, option in choices.items()}}
        environments[name] = dict(flat(environment))

    def frame(by_run: dict[str, dict[str, Any]]) -> pd.DataFrame:
        return pd.DataFrame.from_dict(by_run, orient="index")

    return Runs(frame(summaries), frame(configs), frame(environments), pd.DataFrame(rows), problems)


def run_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Returns the folders of runs at and below these paths, each once, in the order of plans or names."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        for folder in [path / name for name in jobs_below(path)] or [path]:
            found.setdefault(folder.resolve())
    return list(found)


def read_header(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns (summary, configuration by dotted key, choices, environment) of a run; RunError if one is damaged."""
    if not (folder / "run.yaml").exists() and not (folder / "summary.json").exists():
        raise RunError("holds no run")
    summary = read_json(folder / "summary.json")
    if not summary:
        raise RunError("summary.json is missing or damaged")
    if summary["status"] == "failed" and not (folder / "run.yaml").exists():
        raise RunError(f"failed before it began ({summary.get('error')})")
    missing = [key for key in NEEDED if key not in summary]
    if missing:
        raise RunError(f"summary.json lacks {', '.join(missing)}; it is of another version")
    try:
        with open(folder / "run.yaml", "rb") as file:
            content = yaml.load(file, LOADER)  # of the safe kind
        choices = content.pop("choices")
        content.pop("fingerprint")
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise RunError("run.yaml is missing or damaged") from error
    content, choices = with_new_names(content, choices)
    return summary, dict(flat(content)), choices, read_json(folder / "environment.json")


def read_file(path: Path) -> list[Record]:
    """Returns the records in a run's metrics.jsonl or evaluations.jsonl; RunError if the file is damaged."""
    try:
        return read_records(path)
    except OSError as error:
        raise RunError(f"{path.name} is missing or cannot be read") from error
    except DamagedMetrics as error:
        raise RunError(str(error)) from error


def flat(content: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yields (dotted key, value) of nested dicts; lists stay values.

    >>> dict(flat({"final": {"top1": 90.0}, "seed": 0}))
    {'final.top1': 90.0, 'seed': 0}
    """
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
