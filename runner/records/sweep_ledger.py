"""What became of a sweep's jobs, read from their folders. Needs no torch."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.durations import Duration
from ..system.errors import UserError
from ..system.files import read_json, write_json
from ..system.lock import living
from .metrics import METRICS, last_record
from .run_folder import DONE

PLAN = "sweep.json"
STATES = ("done", "diverged", "running", "interrupted", "failed", "missing", "stale")
WHOLE = ("done", "diverged")


@dataclass
class Entry:
    """One job of a sweep, or a run beside them.

    `state` is `done`, `diverged`, `running`, `interrupted` (stopped or killed: the same sweep goes on with it),
    `failed` (the same sweep tries again), `missing` (not begun), or `stale`: its configuration was another than
    the one that the sweep last led to; it is left alone.
    """

    name: str  # the folder, relative to the sweep's
    overrides: list[str]
    state: str
    role: str | None = None  # of a tournament's job: trial, final, or former (of an earlier command)
    step: int | None = None
    share: float | None = None  # of its duration, 0 to 1
    seconds_left: float | None = None  # of a running one, at its pace so far
    wall_seconds: float | None = None
    top1: float | None = None  # final, on the test set, in percent
    loss: float | None = None
    error: str | None = None


def write_plan(folder: Path, overrides: list[str], jobs: list[dict[str, Any]], workers: int) -> None:
    """Writes down which jobs a sweep has, or has more; those that the list held before stay in it.

    Args:
        folder: the sweep's.
        overrides: what was typed.
        jobs: a dict {folder, overrides, fingerprint} for each, `folder` relative to the sweep's.
        workers: how many are run at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {job["folder"]: job for job in [*read_json(folder / PLAN).get("jobs", []), *jobs]}
    write_json(folder / PLAN, {"overrides": overrides, "workers": workers, "jobs": list(known.values())})


def jobs_below(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns what the plan says of each job, by its folder's name; after these, {} for each run that it lacks."""
    planned = {job["folder"]: job for job in read_json(folder / PLAN).get("jobs", [])}
    places = {path.parent for name in ("run.yaml", "summary.json") for path in folder.rglob(name)}
    found = sorted(str(place.relative_to(folder)) for place in places)
    return planned | {name: {} for name in found if name not in planned}


def planned(folders: Iterable[Path]) -> dict[Path, tuple[Path, dict[str, Any]]]:
    """Returns, for those of these folders that a sweep's plan names, that sweep and what the plan says."""
    plans: dict[Path, dict[Path, dict[str, Any]]] = {}
    found = {}
    for folder in folders:
        for sweep in folder.parents:
            if sweep not in plans:
                plans[sweep] = {sweep / job["folder"]: job for job in read_json(sweep / PLAN).get("jobs", [])}
            if folder in plans[sweep]:
                found[folder] = sweep, plans[sweep][folder]
                break
    return found


def read_ledger(folder: Path) -> list[Entry]:
    """Returns the state of every job of a sweep, and of the runs below a folder that are no sweep's.

    Raises:
        UserError: there is neither a sweep nor a run.
    """
    jobs = jobs_below(folder)
    if not jobs and not (folder / PLAN).exists():
        raise UserError(f"{folder}: is no sweep's or run's folder (there is no {PLAN} or run.yaml in it)")
    alive = living([folder / name for name in jobs])
    return [entry(folder, name, job, folder / name in alive) for name, job in jobs.items()]


def entry(folder: Path, name: str, job: dict[str, Any], alive: bool) -> Entry:
    """Returns what the folder of one job says.

    Args:
        folder: the sweep's.
        name: of the job's folder below it.
        job: what the plan says of it; empty where it is in none.
        alive: whether a living process writes it.
    """
    place = folder / name
    summary = read_json(place / "summary.json")
    recorded = _recorded(place)
    state = _state(summary.get("status"), recorded.get("fingerprint"), job.get("fingerprint"), alive)
    row = last_record(place / METRICS)
    step = row.get("step", summary.get("steps"))
    share = _share(recorded.get("duration", ""), row)
    final = summary.get("final") or {}
    return Entry(
        name=name,
        overrides=job.get("overrides", []),
        state=state,
        role=job.get("role"),
        step=step,
        share=1.0 if state == "done" else share,
        seconds_left=_left(share, row, summary) if state == "running" else None,
        wall_seconds=summary.get("wall_seconds"),
        top1=final.get("top1"),
        loss=final.get("loss"),
        error=summary.get("error") if state == "failed" else None,
    )


def exit_code(entries: Iterable[Entry]) -> int:
    """Returns 0 if every job came to its end, else 1."""
    return 0 if all(e.state in WHOLE for e in entries) else 1


def counts(entries: list[Entry]) -> str:
    """Returns how many jobs are in which state, as in `3 jobs: 2 done, 1 missing`."""
    number = Counter(e.state for e in entries)
    parts = ", ".join(f"{number[state]} {state}" for state in STATES if number[state])
    return f"{len(entries)} {'job' if len(entries) == 1 else 'jobs'}: {parts}"


def _state(status: str | None, fingerprint: str | None, planned: str | None, alive: bool) -> str:
    if alive:
        return "running"
    if None not in (fingerprint, planned) and fingerprint != planned:
        return "stale"
    if status in DONE:
        return "done" if status == "finished" else "diverged"
    if status == "failed":
        return "failed"
    return "missing" if fingerprint is None else "interrupted"


def _recorded(folder: Path) -> dict[str, str]:
    """Returns fingerprint and duration of a run.yaml, without reading it whole as YAML: that takes long."""
    try:
        text = (folder / "run.yaml").read_text()
    except OSError:
        return {}
    lines = re.findall(r"^(fingerprint|duration): ['\"]?(.*?)['\"]?$", text, re.MULTILINE)
    return dict(lines)


def _share(duration: str, row: dict[str, Any]) -> float | None:
    """Returns how much of a duration has passed at a row."""
    if not row or not Duration.is_valid(duration):
        return None
    parsed = Duration.parse(duration)
    return min(1.0, row["step" if parsed.unit == "steps" else "epoch"] / float(parsed.amount))


def _left(share: float | None, row: dict[str, Any], summary: dict[str, Any]) -> float | None:
    """Returns seconds to go, from the training time so far and what evaluations and the rest took beside it."""
    if not share:
        return None
    trained, beside = summary.get("train_seconds") or 0.0, 1.0
    if trained > 0:
        beside = summary["wall_seconds"] / trained
    return (1 - share) / share * row["train_seconds"] * beside
