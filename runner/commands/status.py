"""`trainopt status SWEEP …`."""

import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..cluster.queue import lost_workers, read_table_with_queue, workers_text
from ..cluster.scheduler import Task
from ..cluster.submissions import read_submissions
from ..records.job_table import ENDED, IN_QUEUE, OPEN_SEARCH, PLAN, JobStatus, error_lines, read_job_table, sweeps_below
from ..records.run_folder import CONFIG, SUMMARY
from ..sweeps.status import report_of, show_job_table
from ..system.errors import UserError
from ..system.files import read_json, shown
from ..system.flags import FlagParser, existing_folder
from ..system.lock import LOCK_FILE, is_dead_here

WATCH_SECONDS = 5.0  # between two looks
CLEAR = "\x1b[H\x1b[2J"  # the cursor to the top left, and the screen empty


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt status", description="Show the state of each job of a sweep, or of several.")
    parser.add_argument(
        "folders",
        type=existing_folder,
        nargs="+",
        metavar="SWEEP",
        help="folder of a sweep or of a run, or a folder above runs",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument(
        "--watch", action="store_true", help="update the table until no job runs or waits; Ctrl-C ends it"
    )
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP …`."""
    del debug
    options = parser().parse_args(arguments)
    folders = list(dict.fromkeys(options.folders))
    if options.watch:
        if options.json:
            raise UserError("status: --watch and --json: give one of the two")
        return watch(folders)
    jobs, workers, is_unknown = read_tables(folders)
    if options.json:
        print(json.dumps([asdict(job) for job in jobs], indent=2))
    else:
        show(folders, jobs, workers, is_unknown)
    return 0


def read_tables(folders: list[Path]) -> tuple[list[JobStatus], list[Task], bool]:
    """Returns what `read_table` does, of one folder or of several; of several, jobs are named with theirs."""
    if len(folders) == 1:
        return read_table(folders[0])
    table: list[JobStatus] = []
    workers: list[Task] = []
    is_unknown = False
    for folder in folders:
        jobs, of_folder, is_unknown_here = read_table(folder)
        is_run = not (folder / PLAN).exists() and any((folder / name).exists() for name in (CONFIG, SUMMARY, LOCK_FILE))
        table += [replace(job, name=str(folder if is_run else folder / job.name), overrides=[]) for job in jobs]
        workers += of_folder
        is_unknown |= is_unknown_here
    return table, workers, is_unknown


def read_table(folder: Path) -> tuple[list[JobStatus], list[Task], bool]:
    """Returns the job table of a sweep, its workers, and whether what the queue knows of open jobs is missing.

    Args:
        folder: of a sweep or of a run; or one above such, whose sweeps are read one after the other.
    """
    sweeps = sweeps_below(folder)
    if not sweeps:
        return read_sweep(folder)
    table: list[JobStatus] = []
    workers: list[Task] = []
    is_unknown = False
    for sweep in sweeps:
        jobs, of_sweep = read_job_table(sweep), list[Task]()
        has_ended = jobs and not has_open(jobs) and not (sweep / OPEN_SEARCH).exists()
        if read_submissions(sweep) and not has_ended and not is_unknown:
            jobs, of_sweep, is_unknown = read_sweep(sweep)
        place = sweep.relative_to(folder)
        table += [replace(job, name=str(place / job.name), overrides=[]) for job in jobs]
        workers += of_sweep
    return [*table, *read_job_table(folder, without=sweeps)], workers, is_unknown


def has_open(jobs: list[JobStatus]) -> bool:
    """Returns whether one of some jobs has not ended."""
    return any(job.state not in (*ENDED, "outdated") for job in jobs)


def read_sweep(sweep: Path) -> tuple[list[JobStatus], list[Task], bool]:
    """Returns what `read_table` does, of a sweep or of a run."""
    try:
        return *read_table_with_queue(sweep), False
    except UserError as error:
        jobs = read_job_table(sweep)
        is_open = has_open(jobs) or (sweep / OPEN_SEARCH).exists()
        if is_open:
            print(f"trainopt: which jobs are in the queue is unknown: {error}", file=sys.stderr)
        return jobs, [], is_open


def show(folders: list[Path], jobs: list[JobStatus], workers: list[Task], is_unknown: bool) -> None:
    """Prints a job table, the workers on a cluster, reports, and which searches have not ended.

    Args:
        folders: of sweeps, or above such.
        jobs: the job table.
        workers: that wait or run.
        is_unknown: whether what the queue knows is missing.
    """
    show_job_table(jobs)
    if workers:
        print(workers_text(workers))
    searches = open_searches(folders)
    lost = [] if is_unknown else [worker for sweep in searches for worker in lost_workers(sweep, workers)]
    for line in error_lines(lost, "worker"):
        print(line)
    if is_at_work(jobs, workers):
        return
    for sweep, search in searches.items():
        name = "the search" if [sweep] == folders else f"{shown(sweep)}: the search"
        if is_dead_here(search) is not False:
            print(f"{name} has not ended: trials are missing; {continuation(sweep, search['command'])}")
    for folder in folders:
        report = report_of(folder)
        if report is not None and not any(sweep.is_relative_to(folder) for sweep in searches):
            print(f"result: {shown(report)}")


def is_at_work(jobs: list[JobStatus], workers: list[Task]) -> bool:
    """Returns whether a job or a worker runs or waits."""
    return bool(workers) or any(job.state in ("running", *IN_QUEUE) for job in jobs)


def open_searches(folders: list[Path]) -> dict[Path, dict[str, Any]]:
    """Returns the process and the command of each search in folders that has not ended, by its folder."""
    sweeps = [sweep for folder in folders for sweep in sweeps_below(folder) or [folder]]
    return {sweep: search for sweep in sweeps if (search := read_json(sweep / OPEN_SEARCH))}


def continuation(sweep: Path, command: list[str]) -> str:
    """Returns how a search goes on, whose command was typed here or is that of a submission."""
    if read_submissions(sweep):
        return "trainopt submit with the same arguments continues it"
    return f"the same command continues it: {shlex.join(command)}"


def watch(folders: list[Path]) -> int:
    """Shows the job table of sweeps again and again, until no job runs or waits; returns the exit code."""
    try:
        while True:
            jobs, workers, is_unknown = read_tables(folders)
            if sys.stdout.isatty():
                print(CLEAR, end="")
            show(folders, jobs, workers, is_unknown)
            lives = any(is_dead_here(search) is False for search in open_searches(folders).values())
            if not is_at_work(jobs, workers) and not is_unknown and not lives:
                return 0
            sys.stdout.flush()
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0
