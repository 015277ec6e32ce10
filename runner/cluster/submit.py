"""Submits what is left of a sweep, as arrays of SLURM.

By plain sbatch: a task is a command that one can type, its log is text, nothing is pickled, and no process has to wait.
"""

import os
import re
import shlex
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

from ..records.job_table import STATES
from ..system.errors import UserError
from ..system.files import shown
from ..system.lock import RunLock
from .queue import OPEN_STATES, read_table_with_queue, tasks_of
from .settings import ClusterSettings
from .slurm import array_limit, is_installed, sbatch
from .submissions import Submission

SEARCH_WORKERS = 4  # where array_parallelism is null
LONGEST_NAME = 60  # characters of a sweep's name in the queue


class SubmitLock(RunLock):
    """One process at a time submits jobs of a sweep: two would submit each job twice."""

    name = "submit.lock"
    busy = "jobs are being submitted"
    advice = "wait for it"


def submit(sweep: Path, arguments: list[str], settings: ClusterSettings, is_search: bool, module: str) -> None:
    """Submits the jobs of a sweep that are left and not in the queue, and prints the numbers of their arrays.

    Args:
        sweep: its folder, with a plan.
        arguments: of the sweep's command, without settings of the cluster.
        settings: what a task asks for.
        is_search: the jobs follow from results of earlier ones.
        module: that a task runs, with the file of the submission.

    Raises:
        UserError: SLURM refuses them, or another process submits at the same time.
    """
    if not is_installed():
        raise UserError("submit: sbatch is not on this machine; type the command where SLURM's are")
    with SubmitLock(sweep):
        tasks = search_tasks(sweep, settings) if is_search else job_tasks(sweep, settings)
        limit, rest = array_limit(), iter(tasks)
        while part := list(islice(rest, limit)):
            name = f"{re.sub(r'[^A-Za-z0-9_.=-]', '_', sweep.name)[:LONGEST_NAME]}.{os.urandom(4).hex()}"
            submission = Submission(name, arguments, part)
            path = submission.write(sweep)
            try:
                number = sbatch(batch_script(path, submission, settings, module))
            except UserError:
                path.unlink()
                raise
            runs = sum(map(len, part))
            what = f"{runs} runs in {len(part)} tasks" if runs else f"{len(part)} workers of the search"
            print(f"submitted {what}: SLURM job {number}", flush=True)
    place = shlex.quote(shown(sweep))
    print(f"job table: trainopt status {place} --watch; the same command submits what is left then")
    print(f"to end its tasks: trainopt cancel {place}")


def check_processes(settings: ClusterSettings, is_search: bool, launcher: str) -> None:
    """Raises UserError where runs cannot be on as many processes as the settings say.

    Args:
        settings: what a task asks for.
        is_search: the jobs follow from results of earlier ones.
        launcher: the option of hydra/launcher.
    """
    several = "cluster.nodes and cluster.processes:"
    if is_search and settings.nodes * settings.processes > 1:
        raise UserError(f"{several} the trials of a search are runs of one process; leave them out")
    if launcher != "basic" and settings.nodes * settings.processes > 1:
        raise UserError(f"{several} a run takes all processes of its task; leave hydra/launcher={launcher} out")
    number = settings.processes
    if 0 < settings.gpus < number:
        raise UserError(f"cluster.processes={number}: each has a GPU of its own; write cluster.gpus={number}, or 0")


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


def batch_script(path: Path, submission: Submission, settings: ClusterSettings, module: str) -> str:
    """Returns the batch script of an array.

    Args:
        path: of the submission's file.
        submission: of the array.
        settings: what a task asks for.
        module: that a task runs.
    """
    bound = f"%{settings.array_parallelism}" if settings.array_parallelism else ""
    options = {
        "job-name": submission.name,
        "array": f"0-{len(submission.tasks) - 1}{bound}",
        "output": path.parent / "%A_%a.log",
        "open-mode": "append",
        "requeue": True,
        "signal": f"B:USR2@{settings.grace}",
        "nodes": settings.nodes,
        "ntasks": settings.nodes * settings.processes,
        "ntasks-per-node": settings.processes,
        "partition": settings.partition,
        "time": settings.time,
        "gpus-per-node": settings.gpus or None,
        "cpus-per-task": settings.cpus,
        "mem": settings.memory,
        "account": settings.account,
        **settings.extra,
    }
    lines = [
        f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={quoted(value)}"
        for name, value in options.items()
        if value not in (None, False)
    ]
    command = shlex.join([sys.executable, "-u", "-m", module, str(path.resolve())])
    # a signal that comes before Python handles it would end the task; SIGTERM, which follows at the limit, is handled
    lines += ["trap '' USR2", "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"]
    return "\n".join(["#!/bin/bash", *lines, *settings.setup, f"exec {command}"]) + "\n"


def quoted(value: object) -> str:
    """Returns a value as sbatch reads it in a script: in double quotes where it has blanks.

    >>> quoted("a b"), quoted(3)
    ('"a b"', '3')
    """
    text = str(value)
    return f'"{text}"' if re.search(r"\s", text) else text
