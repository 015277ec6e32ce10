"""Runs as pandas frames. Needs no torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..system.files import read_json, shown
from .consistency import NO_EVALUATIONS, inconsistency
from .job_table import jobs_below
from .metrics import EVALUATIONS_FILE, METRICS_FILE, VOID, DamagedMetrics, Record, record_blocks
from .run_folder import CONFIG, ENVIRONMENT, SUMMARY, flatten, load_config, read_summary

REQUIRED = ("status", "fingerprint", "steps", "gradients", "hvps", "train_seconds", "seed", "best_on", "classes")


class RunError(Exception):
    """A folder whose run cannot be used; the text says why."""


@dataclass
class LoadedRun:
    """The files of a run.

    Attributes:
        path: its folder.
        summary: summary.json.
        config: the configuration by dotted key, as in `optimizer.lr`.
        choices: the option of each group, as in {"optimizer": "adam"}.
        environment: environment.json.
        metrics: a row for each record of metrics.jsonl.
        evaluations: a row for each record of evaluations.jsonl, which `trainopt evaluate RUN --follow` writes: like
            the rows of kind `test` and `validation` in `metrics`, with a column `checkpoint`. They are a frame of
            their own, as `summary` and `trainopt compare` use only the evaluations that the run itself made; steps
            may be in both, with the same values. Empty where nobody followed the run.
    """

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]
    choices: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    evaluations: pd.DataFrame

    def __repr__(self) -> str:
        """Returns a line for notebooks: the folder, the status, the final values, and the number of records."""
        final = self.summary.get("final") or {}
        values = [f"{name} {value:.4g}" for name, value in final.items() if isinstance(value, int | float)]
        parts = [str(self.path), str(self.summary.get("status")), *values, f"{len(self.metrics)} records"]
        return f"LoadedRun({', '.join(parts)})"


@dataclass
class Runs:
    """Many runs as frames; the index, or the column `run`, holds the runs' folders as text.

    Attributes:
        summaries: a row for each run; nested values have dotted columns, as `final.top1`.
        configs: a row for each run, a column for each dotted key, and columns `choices.optimizer` and so on.
        environments: a row for each run.
        metrics: a row for each record of all runs, with a column `run`.
        problems: (folder, reason) of each run that was left out.
        inconsistencies: a line for each run whose files do not agree, by run.
    """

    summaries: pd.DataFrame
    configs: pd.DataFrame
    environments: pd.DataFrame
    metrics: pd.DataFrame
    problems: list[tuple[str, str]]
    inconsistencies: dict[str, str] = field(default_factory=dict)


def load_run(path: str | Path) -> LoadedRun:
    """Reads one run; its frame of metrics has a column for every name in any of its records.

    Raises:
        RunError: the folder holds no run, or its files are damaged.
    """
    folder = Path(path)
    summary, config, choices, environment = read_header(folder)
    metrics = read_frame(folder / METRICS_FILE)
    evaluations = read_frame(folder / EVALUATIONS_FILE) if (folder / EVALUATIONS_FILE).exists() else pd.DataFrame()
    return LoadedRun(folder, with_selected(summary, metrics), config, choices, environment, metrics, evaluations)


def load_runs(
    paths: str | Path | Iterable[str | Path],
    exclude: Callable[[dict[str, Any]], str | None] = lambda summary: None,
    progress: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders,
) -> Runs:
    """Reads the runs in these folders, in those below them, and those in the plan of a sweep.

    Args:
        paths: one or several, of runs, of sweeps, or of folders with runs below them.
        exclude: returns for a run's summary why the run is to be left out, or None.
        progress: wraps the list of folders, as a progress bar does.
    """
    return load_folders(run_folders([paths] if isinstance(paths, str | Path) else paths), exclude, progress)


def load_folders(
    folders: list[Path],
    exclude: Callable[[dict[str, Any]], str | None] = lambda summary: None,
    progress: Callable[[list[Path]], Iterable[Path]] = lambda folders: folders,
    thin: Callable[[pd.DataFrame, dict[str, Any]], pd.DataFrame] = lambda records, summary: records,
) -> Runs:
    """Reads the runs in folders, as of `run_folders`; no run below them.

    Args:
        folders: of runs.
        exclude: as for `load_runs`.
        progress: as for `load_runs`.
        thin: returns for the records of a run and its summary those that are needed.
    """
    summaries, configs, environments, parts = {}, {}, {}, []
    problems, inconsistencies = [], {}
    for folder in progress(folders):
        name = shown(folder)
        try:
            summary, config, choices, environment = read_header(folder)
            reason = exclude(summary)
            if reason is not None:
                raise RunError(reason)
            records = read_frame(folder / METRICS_FILE)
        except RunError as error:
            problems.append((name, str(error)))
            continue
        if text := inconsistency(summary, config, choices, environment, evaluations_in(records)):
            inconsistencies[name] = f"{name} {text}"
        parts.append(thin(records.assign(run=name), summary))
        summaries[name] = dict(flatten(with_selected(summary, records)))
        configs[name] = {**config, **{f"choices.{group}": option for group, option in choices.items()}}
        environments[name] = dict(flatten(environment))

    def frame(by_run: dict[str, dict[str, Any]]) -> pd.DataFrame:
        return pd.DataFrame.from_dict(by_run, orient="index")

    configurations = frame_of_values(configs)
    return Runs(frame(summaries), configurations, frame(environments), joined(parts), problems, inconsistencies)


def evaluations_in(records: pd.DataFrame) -> list[Record]:
    """Returns the evaluations among the records of a run."""
    if records.empty:
        return []
    return records[~records["kind"].isin(NO_EVALUATIONS)].to_dict("records")


def with_selected(summary: dict[str, Any], records: pd.DataFrame) -> dict[str, Any]:
    """Returns a summary with `selected`, the test metrics at the best validation, which earlier versions left out.

    Args:
        summary: of a run.
        records: of its metrics.jsonl.
    """
    best, final = summary.get("best"), summary.get("final")
    if summary.get("selected") or summary["best_on"] != "validation" or not best or not final or records.empty:
        return summary
    at_best = records[records["step"] == best["step"]].drop_duplicates("kind", keep="last").set_index("kind")
    sets = {"test": final, **{name: values for name, values in final.items() if isinstance(values, dict)}}
    selected: dict[str, Any] = {"step": best["step"], "epoch": best["epoch"]}
    for kind in [name for name in sets if name in at_best.index]:
        row = at_best.loc[kind]
        numbers = {
            name: row[name] for name, value in sets[kind].items() if isinstance(value, int | float) and name in row
        }
        selected |= numbers if kind == "test" else {kind: numbers}
    return {**summary, "selected": selected}


def joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Returns one frame of the rows of several, with the types that a frame of all their records would have."""
    return pd.concat(parts, ignore_index=True).infer_objects() if parts else pd.DataFrame()


def frame_of_values(by_run: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """Returns a frame with a row for each run whose values keep their types: an integer beside a gap stays one."""
    keys = dict.fromkeys(key for values in by_run.values() for key in values)
    columns = {key: [values.get(key, float("nan")) for values in by_run.values()] for key in keys}
    return pd.DataFrame({k: pd.Series(v, index=list(by_run), dtype=object) for k, v in columns.items()})


def run_folders(paths: Iterable[str | Path]) -> list[Path]:
    """Returns the folders of runs at and below these paths, each once, in the order of plans or names."""
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        for folder in [path / name for name in jobs_below(path)] or [path]:
            folders.setdefault(folder.resolve())
    return list(folders)


def read_header(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Returns (summary, configuration by dotted key, choices, environment) of a run; RunError if one is damaged."""
    if not (folder / CONFIG).exists() and not (folder / SUMMARY).exists():
        raise RunError("holds no run")
    summary = read_summary(folder)
    if not summary:
        raise RunError(f"{SUMMARY} is missing or damaged")
    if summary.get("status") == "failed" and not (folder / CONFIG).exists():
        raise RunError(f"failed before it began ({summary.get('error')})")
    missing = [key for key in REQUIRED if key not in summary]
    if missing:
        raise RunError(f"{SUMMARY} lacks {', '.join(missing)}; another version wrote it")
    try:
        config, choices = load_config(folder)
    except (OSError, ValueError) as error:
        raise RunError(f"{CONFIG} is missing or damaged") from error
    return summary, dict(flatten(config)), choices, read_json(folder / ENVIRONMENT)


def read_frame(path: Path) -> pd.DataFrame:
    """Returns the records in a run's metrics.jsonl or evaluations.jsonl; RunError if the file is damaged."""
    try:
        return joined([pd.DataFrame([r for r in records if r["kind"] != VOID]) for records in record_blocks(path)])
    except OSError as error:
        raise RunError(f"{path.name} is missing or cannot be read") from error
    except DamagedMetrics as error:
        raise RunError(str(error)) from error
