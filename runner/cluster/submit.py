"""Submits what is left of a sweep to a scheduler."""

import os
import re
import shlex
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ..records.job_table import IN_QUEUE, OPEN_SEARCH, STATES, JobStatus, error_lines
from ..system.errors import UserError
from ..system.files import plural, shown, write_json
from ..system.lock import RunLock
from .queue import OPEN_STATES, lost_workers, read_table_with_queue, tasks_of
from .scheduler import NoAnswer
from .schedulers import SCHEDULERS
from .settings import CLUSTERS, ClusterSettings
from .submissions import Submission, submission_path

SEARCH_WORKERS = 4  # where array_parallelism is null
LONGEST_NAME = 60  # characters of a sweep's name in the queue
MOST_NAMED = 5  # errors of jobs that failed before


class SubmitLock(RunLock):
    """One process at a time submits jobs of a sweep: two would submit each job twice."""

    name = "submit.lock"
    busy = "jobs are being submitted"
    advice = "wait for it"


def submit(
    sweep: Path,
    jobs: list[dict[str, Any]],
    arguments: list[str],
    settings: ClusterSettings,
    is_search: bool,
    scheduler: str,
    is_dry: bool = False,
) -> None:
    """Submits those jobs that are left and not in a queue, and prints the numbers of their submissions.

    Args:
        sweep: its folder, with a plan.
        jobs: the plan's entries of those that were typed.
        arguments: of the sweep's command, without settings of the cluster.
        settings: what a task asks for.
        is_search: the jobs follow from results of earlier ones.
        scheduler: the name of the one that gets them.
        is_dry: print what would be submitted, and write nothing.

    Raises:
        UserError: the scheduler refuses them, or another process submits at the same time.
    """
    queue = SCHEDULERS[scheduler]
    name = re.sub(r"[^A-Za-z0-9_.=-]", "_", sweep.name)[:LONGEST_NAME]
    with nullcontext() if is_dry else SubmitLock(sweep):
        tasks = search_tasks(sweep, settings) if is_search else job_tasks(sweep, jobs, settings, scheduler)
        if tasks and not is_dry:
            settings = queue.connect(settings)
        size = queue.limit() if tasks else None
        if size is not None and len(tasks) > size:
            bound = ", one after the other" if settings.array_parallelism else ""
            count = -(-len(tasks) // size)
            print(f"{len(tasks)} tasks: {count} arrays{bound}, as {queue.title} takes {size} tasks in one")
        rest, after = iter(tasks), None
        while part := list(islice(rest, size)):
            submission = Submission(f"{name}.{os.urandom(4).hex()}", arguments, part, scheduler, asdict(settings))
            path = submission_path(sweep, submission.name)
            if is_dry:
                print(f"would submit {content_of(part)}:\n{queue.preview(path, submission, settings)}")
                print("\n".join(f"task {index}: {name}" for index, names in enumerate(part) for name in names))
                continue
            submission.write(sweep)
            search = sweep / OPEN_SEARCH
            begins_search = is_search and not search.exists()
            if begins_search:  # a worker may end before it can say so
                write_json(search, {"command": ["trainopt", *arguments]})
            try:
                number = queue.submit(path, submission, settings, after)
            except NoAnswer as error:  # its tasks read the file
                status = f"trainopt status {shlex.quote(shown(sweep))}"
                raise UserError(f"{error}; {status} shows tasks that it took, which are not submitted twice") from error
            except UserError:
                path.unlink()
                if begins_search:
                    search.unlink(missing_ok=True)
                raise
            after = number if settings.array_parallelism else None
            print(f"submitted {content_of(part)}: {queue.place} {number}", flush=True)
    if is_dry:
        if not tasks:
            print("would submit nothing, so there is no script")
        return
    place = shlex.quote(shown(sweep))
    print(f"job table: trainopt status {place} --watch; the same command submits what is left then")
    print(f"to end its tasks: trainopt cancel {place}")


def content_of(tasks: list[list[str]]) -> str:
    """Returns what the tasks of a submission run, as in `4 runs in 2 tasks`."""
    runs = sum(map(len, tasks))
    return (
        f"{plural(runs, 'run')} in {plural(len(tasks), 'task')}"
        if runs
        else f"{plural(len(tasks), 'worker')} of the search"
    )


def job_tasks(sweep: Path, planned: list[dict[str, Any]], settings: ClusterSettings, scheduler: str) -> list[list[str]]:
    """Returns the folders of the jobs of each task; prints how many jobs need none, and which failed before."""
    jobs, _ = read_table_with_queue(sweep, planned)
    number = Counter(job.state for job in jobs if job.state not in OPEN_STATES)
    if number:
        print(", ".join(f"{number[state]} {state}" for state in STATES if number[state]), end="; ")
        print("nothing else is left" if number.total() == len(jobs) else f"{len(jobs) - number.total()} left")
    tell_other_settings(sweep, jobs, settings, scheduler)
    tell_failed(sweep, error_lines(job for job in jobs if job.state == "failed"))
    left = iter([job.name for job in jobs if job.state in OPEN_STATES])
    return list(iter(lambda: list(islice(left, settings.runs_per_job)), []))


def tell_failed(sweep: Path, lines: list[str]) -> None:
    """Prints the errors of jobs or workers that failed before."""
    for line in lines[:MOST_NAMED]:
        print(f"failed before: {line}")
    if lines[MOST_NAMED:]:
        print(f"failed before: {len(lines) - MOST_NAMED} more; trainopt status {shlex.quote(shown(sweep))} names them")


def tell_other_settings(sweep: Path, jobs: list[JobStatus], settings: ClusterSettings, scheduler: str) -> None:
    """Prints which settings differ from those of jobs that wait already.

    Raises:
        UserError: the scheduler refuses the settings.
    """
    ours = asdict(settings)
    names = {job.name for job in jobs if job.state in IN_QUEUE}
    if not names:
        return  # the queue, which job_tasks has asked, need not be asked again
    number: Counter[str] = Counter()
    for submission, task in tasks_of(sweep):
        waiting = names & set(submission.tasks[task.index])
        theirs = submission.settings
        differ = [key for key in ours if key != "address" and key in theirs and ours[key] != theirs[key]]
        if waiting and submission.scheduler == scheduler and differ:
            number[", ".join(f"{CLUSTERS}.{key}" for key in differ)] += len(waiting)
    for keys, count in number.items():
        place = shlex.quote(shown(sweep))
        print(f"{count} in the queue with other settings ({keys}); to change them, trainopt cancel {place} first")
    if number:
        submission = Submission("test", [], [[]], scheduler, ours)
        SCHEDULERS[scheduler].preview(submission_path(sweep, submission.name), submission, settings)


def search_tasks(sweep: Path, settings: ClusterSettings) -> list[list[str]]:
    """Returns an empty list for each worker that a search lacks; prints how many it has, and which failed before."""
    workers = settings.array_parallelism or SEARCH_WORKERS
    present = [task for _, task in tasks_of(sweep)]
    if present:
        print(f"{plural(len(present), 'worker')} of the search in the queue or running")
    tell_failed(sweep, error_lines(lost_workers(sweep, present), "worker"))
    return [[] for _ in range(workers - len(present))]
