"""`trainopt status SWEEP`."""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from ..cluster.queue import read_table_with_queue, workers_text
from ..cluster.scheduler import Task
from ..records.job_table import ENDED, IN_QUEUE, JobStatus, read_job_table
from ..sweeps.status import show_job_table
from ..system.errors import UserError
from ..system.flags import FlagParser, existing_folder

WATCH_SECONDS = 5.0  # between two looks
CLEAR = "\x1b[H\x1b[2J"  # the cursor to the top left, and the screen empty


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt status", description="Show the state of each job of a sweep.")
    parser.add_argument(
        "sweep", type=existing_folder, metavar="SWEEP", help="folder of a sweep or of a run, or a folder above runs"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument(
        "--watch", action="store_true", help="update the table until no job runs or waits; Ctrl-C ends it"
    )
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP`."""
    del debug
    options = parser().parse_args(arguments)
    if options.watch:
        if options.json:
            raise UserError("status: --watch and --json: give one of the two")
        return watch(options.sweep)
    jobs, workers, _ = read_table(options.sweep)
    if options.json:
        print(json.dumps([asdict(job) for job in jobs], indent=2))
    else:
        show(jobs, workers)
    return 0


def read_table(sweep: Path) -> tuple[list[JobStatus], list[Task], bool]:
    """Returns the job table of a sweep, its workers, and whether what the queue knows of open jobs is missing."""
    try:
        return *read_table_with_queue(sweep), False
    except UserError as error:
        jobs = read_job_table(sweep)
        is_open = any(job.state not in (*ENDED, "outdated") for job in jobs)
        if is_open:
            print(f"trainopt: which jobs are in the queue is unknown: {error}", file=sys.stderr)
        return jobs, [], is_open


def show(jobs: list[JobStatus], workers: list[Task]) -> None:
    """Prints the job table of a sweep, and its workers on a cluster."""
    show_job_table(jobs)
    if workers:
        print(workers_text(workers))


def watch(sweep: Path) -> int:
    """Shows the job table of a sweep again and again, until no job runs or waits; returns the exit code."""
    try:
        while True:
            jobs, workers, is_unknown = read_table(sweep)
            if sys.stdout.isatty():
                print(CLEAR, end="")
            show(jobs, workers)
            if not workers and not is_unknown and not any(job.state in ("running", *IN_QUEUE) for job in jobs):
                return 0
            sys.stdout.flush()
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return 0
