"""`trainopt cancel SWEEP`: ends the tasks of a sweep on a cluster."""

from ...cluster.queue import tasks_by_scheduler
from ...cluster.submissions import read_submissions
from ...system.errors import UserError
from ...system.flags import FlagParser, existing_folder


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt cancel",
        description="End the tasks of a sweep that wait or run on a cluster. Runs leave a checkpoint.",
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
    print(f"cancelled {number} tasks; trainopt submit with the same arguments goes on where they stopped")
    return 0
