"""Submits what is left of a sweep to a scheduler."""

import os
import re
import shlex
from collections import Counter
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from ..records.job_table import STATES
from ..system.errors import UserError
from ..system.files import plural, shown
from ..system.lock import RunLock
from .queue import OPEN_STATES, read_table_with_queue, tasks_of
from .schedulers import SCHEDULERS
from .settings import ClusterSettings
from .submissions import Submission

SEARCH_WORKERS = 4  # where array_parallelism is null
LONGEST_NAME = 60  # characters of a sweep's name in the queue


class SubmitLock(RunLock):
    """One process at a time submits jobs of a sweep: two would submit each job twice."""

    name = "submit.lock"
    busy = "jobs are being submitted"
    advice = "wait for it"


def submit(sweep: Path, arguments: list[str], settings: ClusterSettings, is_search: bool, scheduler: str) -> None:
    """Submits the jobs of a sweep that are left and not in a queue, and prints the numbers of their submissions.

    Args:
        sweep: its folder, with a plan.
        arguments: of the sweep's command, without settings of the cluster.
        settings: what a task asks for.
        is_search: the jobs follow from results of earlier ones.
        scheduler: the name of the one that gets them.

    Raises:
        UserError: the scheduler refuses them, or another process submits at the same time.
    """
    queue = SCHEDULERS[scheduler]
    with SubmitLock(sweep):
        tasks = search_tasks(sweep, settings) if is_search else job_tasks(sweep, settings)
        if tasks:
            settings = queue.connect(settings)
        rest = iter(tasks)
        while part := list(islice(rest, queue.limit())):
            name = f"{re.sub(r'[^A-Za-z0-9_.=-]', '_', sweep.name)[:LONGEST_NAME]}.{os.urandom(4).hex()}"
            submission = Submission(name, arguments, part, scheduler, asdict(settings))
            path = submission.write(sweep)
            try:
                number = queue.submit(path, submission, settings)
            except UserError:
                path.unlink()
                raise
            runs = sum(map(len, part))
            what = (
                f"{plural(runs, 'run')} in {plural(len(part), 'task')}"
                if runs
                else f"{plural(len(part), 'worker')} of the search"
            )
            print(f"submitted {what}: {queue.place} {number}", flush=True)
    place = shlex.quote(shown(sweep))
    print(f"job table: trainopt status {place} --watch; the same command submits what is left then")
    print(f"to end its tasks: trainopt cancel {place}")


def job_tasks(sweep: Path, settings: ClusterSettings) -> list[list[str]]:
    """Returns the folders of the jobs of each task; prints how many jobs need none."""
    jobs, _ = read_table_with_queue(sweep)
    number = Counter(job.state for job in jobs if job.state not in OPEN_STATES)
    if number:
        print(", ".join(f"{number[state]} {state}" for state in STATES if number[state]), end="; ")
        print("nothing else is left" if number.total() == len(jobs) else f"{len(jobs) - number.total()} left")
    left = iter([job.name for job in jobs if job.state in OPEN_STATES])
    return list(iter(lambda: list(islice(left, settings.runs_per_job)), []))


def search_tasks(sweep: Path, settings: ClusterSettings) -> list[list[str]]:
    """Returns an empty list for each worker that a search lacks; prints how many it has."""
    workers = settings.array_parallelism or SEARCH_WORKERS
    present = sum(1 for _ in tasks_of(sweep))
    if present:
        print(f"{present} workers of the search are in the queue or run")
    return [[] for _ in range(workers - present)]
