"""The job table of a sweep: the state of each job, read from its folder. Needs no torch."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.durations import Duration
from ..config.renamed import with_new_overrides
from ..system.errors import UserError
from ..system.files import plural, read_json, shown, write_json
from ..system.lock import LOCK_FILE, RunLock, folders_being_written, waited_for
from .metrics import METRICS_FILE, Record, last_record
from .run_folder import CONFIG, DONE, LOG, SUMMARY, read_config, read_summary
from .run_folder import fingerprint as run_fingerprint

PLAN = "sweep.json"
OPEN_SEARCH = "search.open"  # a file beside the plan of a search that has not ended: its command, and its process
SEED = "seed"  # runs that differ in this key only are one method, or one trial
QUEUED = "queued"
ENDED = ("done", "diverged", "pruned")
IN_QUEUE = (QUEUED, "configuring", "starting", "completing", "preempted", "requeued")  # on a cluster
KILLED_EARLY = "was killed before its first record; the same command begins it again"
KILLED = "its process was killed, or its machine stopped; the same command continues it"
SweepJobs = dict[Path, tuple[Path, dict[str, Any]]]  # by the job's folder: the sweep's, and the plan's entry
STATES = (*ENDED, "running", *IN_QUEUE, "paused", "interrupted", "failed", "missing", "outdated")


@dataclass
class JobStatus:
    """The state of one job of a sweep, or of a run beside the jobs.

    Attributes:
        name: the folder, relative to the sweep's.
        overrides: of the job, as in `optimizer.lr=0.1`.
        state: `done`, `diverged`, `pruned` (a search ended it early), `running`, `paused` (waits for a search to go
            on), `interrupted` (stopped or killed: the same sweep continues it), `failed` (the same sweep tries again),
            `missing` (not begun), or `outdated`: the folder holds a run with another configuration than the sweep
            now has for this job, or one that has ended and whose code had changed when the sweep was last typed. Such
            a run is left as it is. Of a job whose task is in the queue of a cluster:
            `queued`, `configuring` (SLURM prepares its node), `starting` (the task runs, and the job begins next),
            `completing` (the task ends), `preempted` (it ends, as a task of higher priority takes its place) or
            `requeued` (after that, or at a time limit).
        is_trial: whether it is a trial of a search.
        role: of a job of a tournament: trial, final, or former (of an earlier command).
        step: that the run has come to.
        share: fraction of the duration that has passed, 0 to 1.
        seconds_left: of a running job, estimated from its speed so far.
        wall_seconds: that the run has taken.
        top1: final, on the test set, in percent.
        loss: final, on the test set.
        error: of a failed job, or of one that was killed, in one line.
        log: of a failed job.
        task: of the cluster, whose job this is, as scontrol takes it.
        node: where that task runs.
        restarts: how often that task was queued again.
        reason: why it waits, in the words of the scheduler.
    """

    name: str
    overrides: list[str]
    state: str
    is_trial: bool = False
    role: str | None = None
    step: int | None = None
    share: float | None = None
    seconds_left: float | None = None
    wall_seconds: float | None = None
    top1: float | None = None
    loss: float | None = None
    error: str | None = None
    log: str | None = None
    task: str | None = None
    node: str | None = None
    restarts: int | None = None
    reason: str | None = None


def is_trial(job: dict[str, Any]) -> bool:
    """Returns whether the plan's entry of a job says that it is a trial of a search, whichever search it is."""
    return "search" in job or "trial" in job or job.get("role") == "trial"


class PlanLock(RunLock):
    """One process at a time changes the plan of a sweep, which several may work on."""

    name = "sweep.lock"


def write_plan(folder: Path, overrides: list[str], jobs: list[dict[str, Any]], workers: int) -> None:
    """Writes the plan of a sweep, sweep.json; jobs that an earlier plan has stay in it.

    Args:
        folder: the sweep's.
        overrides: of the command line.
        jobs: a dict {folder, overrides, fingerprint} for each, `folder` relative to the sweep's, and `changed_code` as
            of the function of this name, where there is any.
        workers: how many jobs run at a time.
    """
    with waited_for(lambda: PlanLock(folder)):
        by_folder = {job["folder"]: job for job in [*read_jobs(folder), *jobs]}
        write_json(folder / PLAN, {"overrides": overrides, "workers": workers, "jobs": list(by_folder.values())})


def read_jobs(folder: Path) -> list[dict[str, Any]]:
    """Returns the jobs in the plan of a sweep, as `write_plan` takes them; none where there is no plan."""
    jobs = read_json(folder / PLAN).get("jobs", [])
    return [{**job, "overrides": with_new_overrides(job["overrides"])} for job in jobs]


def jobs_below(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the plan's entry of each job by the name of its folder; then {} for each run that is not in the plan."""
    jobs = {job["folder"]: job for job in read_jobs(folder)}
    runs = {path.parent for name in (CONFIG, SUMMARY) for path in folder.rglob(name)}
    names = sorted(str(run.relative_to(folder)) for run in runs)
    return jobs | {name: {} for name in names if name not in jobs}


def sweep_jobs(folders: Iterable[Path]) -> SweepJobs:
    """Returns, for those of these folders that are jobs of a sweep, the sweep's folder and the plan's entry."""
    plans: dict[Path, dict[Path, dict[str, Any]]] = {}
    jobs = {}
    for folder in folders:
        for sweep in folder.parents:
            if sweep not in plans:
                plans[sweep] = {sweep / job["folder"]: job for job in read_jobs(sweep)}
            if folder in plans[sweep]:
                jobs[folder] = sweep, plans[sweep][folder]
                break
    return jobs


def sweeps_below(folder: Path) -> list[Path]:
    """Returns the folders of the sweeps below a folder, if it is neither a sweep's nor a run's."""
    if (folder / PLAN).exists() or (folder / CONFIG).exists():
        return []
    sweeps = {path.parent for path in folder.rglob(PLAN)}
    return sorted(sweep for sweep in sweeps if not sweeps & {*sweep.parents})


def read_job_table(folder: Path, without: Collection[Path] = ()) -> list[JobStatus]:
    """Returns the state of every job of a sweep, and of the runs below a folder that belong to no sweep.

    Args:
        folder: of a sweep or of a run, or one above such.
        without: folders below it whose runs are left out.

    Raises:
        UserError: there is neither a sweep nor a run.
    """
    jobs = jobs_below(folder)
    locked = sorted(str(path.parent.relative_to(folder)) for path in folder.rglob(LOCK_FILE))
    jobs |= {name: {} for name in locked if name not in jobs}  # of runs that have no record yet
    if without:
        return job_statuses(folder, {n: job for n, job in jobs.items() if not {*(folder / n).parents} & {*without}})
    if not jobs and not (folder / PLAN).exists():
        raise UserError(f"{folder}: is no sweep's or run's folder (there is no {PLAN} or {CONFIG} in it)")
    if list(jobs) == ["."]:  # a run, which has its folder's name
        folder = folder.resolve()
        return job_statuses(folder.parent, {folder.name: {}})
    return job_statuses(folder, jobs)


def job_statuses(sweep: Path, jobs: Mapping[str, dict[str, Any]]) -> list[JobStatus]:
    """Returns the state of several jobs, from the plan's entry of each by the name of its folder."""
    alive = folders_being_written([sweep / name for name in jobs])
    return [job_status(sweep, name, job, sweep / name in alive) for name, job in jobs.items()]


def job_status(sweep: Path, name: str, job: dict[str, Any], alive: bool) -> JobStatus:
    """Returns the state of one job, read from its folder.

    Args:
        sweep: the sweep's folder.
        name: of the job's folder below it.
        job: the plan's entry of it; empty where the plan has none.
        alive: whether a living process writes the run.
    """
    folder = sweep / name
    summary, header = read_summary(folder), _header(folder)
    is_outdated = not alive and (
        _is_outdated(folder, header.get("fingerprint"), job.get("fingerprint"))
        or (bool(job.get("changed_code")) and bool(header))
    )
    has_lock_alone = not header and not summary and (folder / LOCK_FILE).exists()
    state = _state(summary.get("status"), bool(header) or has_lock_alone, is_outdated, alive)
    error = summary.get("error") if state == "failed" else None
    if state == "interrupted" and summary.get("status") != state:
        error = KILLED_EARLY if has_lock_alone else KILLED
    record = last_record(folder / METRICS_FILE)
    fraction = _fraction(header.get("duration", ""), record)
    final = summary.get("final") or {}
    return JobStatus(
        name=name,
        overrides=job.get("overrides", []),
        state=state,
        is_trial=is_trial(job),
        role=job.get("role"),
        step=record.get("step", summary.get("steps")),
        share=1.0 if state == "done" else fraction,
        seconds_left=_seconds_left(fraction, record, summary) if state == "running" else None,
        wall_seconds=summary.get("wall_seconds"),
        top1=final.get("top1"),
        loss=final.get("loss"),
        error=error,
        log=str(folder / LOG) if state == "failed" and (folder / LOG).exists() else None,
    )


def exit_code(jobs: Iterable[JobStatus]) -> int:
    """Returns 0 if every job has ended, finished or diverged, else 1."""
    return 0 if all(job.state in ENDED for job in jobs) else 1


def count_states(jobs: list[JobStatus]) -> str:
    """Returns the number of jobs in each state, as in `3 jobs: 2 done, 1 missing`; a search may have none yet."""
    if not jobs:
        return "no job has begun"
    number = Counter(job.state for job in jobs)
    parts = ", ".join(f"{number[state]} {state}" for state in STATES if number[state])
    return f"{plural(len(jobs), 'job')}: {parts}"


def error_lines(jobs: Iterable[JobStatus], noun: str = "job") -> list[str]:
    """Returns a line for each error of jobs, with the log; jobs with the same error share a line.

    Args:
        jobs: that have errors, or none; or the workers of a search.
        noun: what one of them is called.

    >>> error_lines([JobStatus(name, [], "failed", error="no memory") for name in "abc"])
    ['3 jobs: no memory']
    """
    groups: dict[str, list[JobStatus]] = {}
    for job in jobs:
        if job.error:
            groups.setdefault(job.error, []).append(job)
    return [
        f"{group[0].name if len(group) == 1 else plural(len(group), noun)}: {error}{_log_of(group)}"
        for error, group in groups.items()
    ]


def _log_of(jobs: list[JobStatus]) -> str:
    """Returns which log jobs have; that of the first one of several; an empty text where none has one."""
    logs = [job.log for job in jobs if job.log is not None]
    of_first = " of the first" if len(logs) > 1 else ""
    return f"; log{of_first}: {shown(Path(logs[0]))}" if logs else ""


def _is_outdated(folder: Path, fingerprint: str | None, planned: str | None) -> bool:
    """Returns whether a folder holds another run than the plan has.

    A duration as 2epoch is 2epochs now: a run and its plan of different versions may differ in that. So the
    configuration is read where the fingerprints differ, which takes longer; and where it was changed after the run.
    """
    if None in (fingerprint, planned) or (fingerprint == planned and not _was_edited(folder)):
        return False
    try:
        config = read_config(folder)[0]
    except UserError:
        return True
    return planned not in (run_fingerprint(config), run_fingerprint(config, usual=False))


def _state(status: str | None, has_begun: bool, is_outdated: bool, alive: bool) -> str:
    if alive:
        return "running"
    if is_outdated:
        return "outdated"
    if status in DONE:
        return "done" if status == "finished" else "diverged"
    if status in ("failed", "paused", "pruned"):
        return status
    return "interrupted" if has_begun else "missing"


def _was_edited(folder: Path) -> bool:
    """Returns whether the configuration of a run is younger than its summary, which is written after it."""
    try:
        return (folder / CONFIG).stat().st_mtime_ns > (folder / SUMMARY).stat().st_mtime_ns
    except OSError:  # one is not there
        return False


def _header(folder: Path) -> dict[str, str]:
    """Returns fingerprint and duration of a run; to read all of run.yaml as YAML would take long."""
    try:
        text = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    lines = re.findall(r"^(fingerprint|duration): ['\"]?(.*?)['\"]?$", text, re.MULTILINE)
    return dict(lines)


def _fraction(duration: str, record: Record) -> float | None:
    """Returns the fraction of a duration that has passed at a record."""
    if not record or not Duration.is_valid(duration):
        return None
    parsed = Duration.parse(duration)
    key = {"steps": "step", "epochs": "epoch", "seconds": "train_seconds"}[parsed.unit]
    return min(1.0, record[key] / float(parsed.amount))


def _seconds_left(fraction: float | None, record: Record, summary: dict[str, Any]) -> float | None:
    """Returns the seconds to go: from the training time so far, times the ratio of wall time to training time."""
    if not fraction:
        return None
    trained, ratio = summary.get("train_seconds") or 0.0, 1.0
    if trained > 0:
        ratio = summary["wall_seconds"] / trained
    return (1 - fraction) / fraction * record["train_seconds"] * ratio
