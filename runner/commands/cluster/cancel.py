"""`trainopt cancel SWEEP`: ends the tasks of a sweep on a cluster."""

import time
from pathlib import Path

from ...cluster.queue import tasks_by_scheduler, tasks_of
from ...cluster.submissions import read_submissions
from ...system.errors import UserError
from ...system.files import plural, shown
from ...system.flags import FlagParser, existing_folder

LONGEST_WAIT_SECONDS = 150.0  # Ray gives runs 120 s for their checkpoints, SLURM 30 unless it is set up otherwise
POLL_SECONDS = 1.0


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt cancel",
        description="End the tasks of a sweep that wait or run on a cluster. It waits for the checkpoints of runs.",
    )
    parser.add_argument("sweep", type=existing_folder, metavar="SWEEP", help="the folder of a sweep that was submitted")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt cancel SWEEP`."""
    del debug
    sweep = parser().parse_args(arguments).sweep
    if not read_submissions(sweep):
        raise UserError(f"cancel: {sweep}: was not submitted to a cluster")
    number = 0
    for scheduler, tasks in tasks_by_scheduler(sweep):
        if tasks:
            scheduler.cancel(tasks)
        number += len(tasks)
    if number:
        print(
            f"cancelled {plural(number, 'task')}; waiting for the checkpoints of their runs (Ctrl-C ends the wait)",
            flush=True,
        )
    left = wait_for_end(sweep) if number else 0
    if left:
        print(f"{plural(left, 'task')} not ended after {LONGEST_WAIT_SECONDS:.0f} s: trainopt status {shown(sweep)}")
    else:
        print("no task is left; trainopt submit with the same arguments goes on where they stopped")
    return 0


def wait_for_end(sweep: Path) -> int:
    """Waits until no task of a sweep is in a queue; returns the number of those that are, at the end of the wait.

    Until then `submit` would take their runs for running ones.
    """
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while (left := sum(1 for _ in tasks_of(sweep))) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return left
