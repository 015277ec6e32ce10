"""The jobs of a sweep that a cluster has: the states that only its queue knows."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..records.job_table import IN_QUEUE, OPEN_SEARCH, QUEUED, JobStatus, job_statuses, read_job_table
from ..records.run_folder import SUMMARY
from .scheduler import Scheduler, Task
from .schedulers import SCHEDULERS
from .submissions import Submission, log_path, read_submissions, search_end_path, submission_path

OPEN_STATES = ("missing", "interrupted", "failed", "paused")  # of a job that its task begins, or goes on with


def tasks_of(sweep: Path) -> Iterator[tuple[Submission, Task]]:
    """Yields each task of a sweep that waits or runs, with its submission; none of a scheduler that is not here."""
    for _, tasks in tasks_by_scheduler(sweep):
        yield from tasks


def tasks_by_scheduler(sweep: Path) -> Iterator[tuple[Scheduler[Any], list[tuple[Submission, Task]]]]:
    """Yields each scheduler that a sweep was submitted to, and the tasks that it has."""
    submissions = read_submissions(sweep)
    by_name = {one.name: one for one in submissions}
    for name in sorted({one.scheduler for one in submissions}):
        scheduler = SCHEDULERS[name]
        tasks = scheduler.tasks(sweep, [one for one in submissions if one.scheduler == name])
        yield scheduler, [(by_name[task.name], task) for task in tasks]


def read_table_with_queue(
    sweep: Path, planned: list[dict[str, Any]] | None = None
) -> tuple[list[JobStatus], list[Task]]:
    """Returns the job table of a sweep with what the queue knows, and the workers of a search.

    That is who waits, why, and where the others run. The queue is asked once, and first: a task that ends in between
    has left its jobs in their last state then.

    Args:
        sweep: its folder.
        planned: the plan's entries of the jobs that are looked at; None: of all.

    Raises:
        UserError: the queue does not answer.
    """
    tasks = list(tasks_of(sweep))
    jobs = {job.name: job for job in table_of(sweep, planned)}
    for submission, task in tasks:
        names = submission.tasks[task.index]
        folders = [name for name in names if name in jobs and not has_failed_in(sweep, submission, task, jobs[name])]
        left = [folder for folder in folders if jobs[folder].state in OPEN_STATES]
        is_busy = any(jobs[folder].state == "running" for folder in folders)
        jobs |= {name: with_task(jobs[name], task, [name] == left[:1] and not is_busy) for name in folders}
    workers = [task for submission, task in tasks if not submission.tasks[task.index]]
    return list(with_lost_tasks(sweep, list(jobs.values()))), workers


def table_of(sweep: Path, planned: list[dict[str, Any]] | None) -> list[JobStatus]:
    """Returns the job table of a sweep, or that of some jobs that need no plan on disk."""
    return read_job_table(sweep) if planned is None else job_statuses(sweep, {job["folder"]: job for job in planned})


def has_failed_in(sweep: Path, submission: Submission, task: Task, job: JobStatus) -> bool:
    """Returns whether a job failed in a task that goes on with others: a task that waits tries all that failed again.

    Args:
        sweep: its folder.
        submission: of the task.
        task: in the queue.
        job: of the task.
    """
    if job.state != "failed" or task.state == "pending":
        return False
    return (sweep / job.name / SUMMARY).stat().st_mtime >= submission_path(sweep, submission.name).stat().st_mtime


def with_task(job: JobStatus, task: Task, is_next: bool) -> JobStatus:
    """Returns a job with what the queue knows of its task.

    Args:
        job: of the task.
        task: in the queue.
        is_next: whether no other job of the task comes before this one.
    """
    known = replace(job, task=task.id, node=task.node or None, restarts=task.restarts)
    if job.state == "running":
        return known
    if job.state not in OPEN_STATES:
        return job
    return replace(known, state=waiting_state(task, is_next), reason=task.reason or None, error=None, log=None)


def with_lost_tasks(sweep: Path, jobs: list[JobStatus]) -> Iterator[JobStatus]:
    """Yields the jobs of a sweep; those as failed whose last task ended before they began, unless it was cancelled."""
    submissions = sorted(read_submissions(sweep), key=lambda one: submission_path(sweep, one.name).stat().st_mtime)
    owner = {name: (one, index) for one in submissions for index, names in enumerate(one.tasks) for name in names}
    for job in jobs:
        lost = owner.get(job.name) if job.state == "missing" else None
        yield job if lost is None else with_lost_task(sweep, job, *lost)


def with_lost_task(sweep: Path, job: JobStatus, submission: Submission, index: int) -> JobStatus:
    """Returns a job that has not begun, as failed if its task has ended and was not cancelled."""
    log = lost_log(sweep, submission, index)
    if log is None:
        return job
    error = f"its task ended before the run began: {last_line(log)}"
    return replace(job, state="failed", error=error, log=str(log))


def lost_workers(sweep: Path, workers: list[Task]) -> list[JobStatus]:
    """Returns the workers of a search that has not ended which ended since it was last submitted, as failed jobs.

    Args:
        sweep: its folder.
        workers: those that wait or run.
    """
    submissions = read_submissions(sweep) if (sweep / OPEN_SEARCH).exists() else []
    latest = max((submission_path(sweep, one.name).stat().st_mtime for one in submissions), default=0.0)
    present = {(task.name, task.index) for task in workers}
    lost = []
    for submission in submissions:
        if search_end_path(submission_path(sweep, submission.name)).exists():
            continue
        for index, names in enumerate(submission.tasks):
            log = None if names or (submission.name, index) in present else lost_log(sweep, submission, index)
            if log is not None and log.stat().st_mtime >= latest:
                error = f"ended before the search did: {last_line(log)}"
                lost.append(JobStatus(f"worker {index}", [], "failed", error=error, log=str(log)))
    return lost


def lost_log(sweep: Path, submission: Submission, index: int) -> Path | None:
    """Returns the log of a task that has left the queue, if it began and was not cancelled."""
    path = submission_path(sweep, submission.name)
    log = log_path(path, index)
    return log if log.exists() and not SCHEDULERS[submission.scheduler].was_cancelled(path, index) else None


def last_line(log: Path) -> str:
    """Returns the last line of a log that is not empty, without the program's name."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "its log is empty")
    return last.removeprefix("trainopt: ")


def waiting_state(task: Task, is_next: bool) -> str:
    """Returns the state of a job whose task is in the queue, and has not begun or continued the job."""
    if task.is_preempted:  # until its process has ended
        return "preempted"
    if task.state == "pending":
        return "requeued" if task.restarts else QUEUED
    if task.state == "running":
        return "starting" if is_next else QUEUED  # behind other jobs of its task
    return task.state if task.state in IN_QUEUE else QUEUED


def workers_text(workers: list[Task]) -> str:
    """Returns a line about the workers of a search, as in `workers: 17_0 running on node4, 17_1 pending`."""
    parts = [f"{task.id} {task.state}" + (f" on {task.node}" if task.node else "") for task in workers]
    return f"workers: {', '.join(parts)}"
