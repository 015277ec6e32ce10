"""`trainopt status SWEEP`."""

import json
from dataclasses import asdict

from ..records.job_table import read_job_table
from ..sweeps.status import show_job_table
from ..system.flags import FlagParser, existing_folder


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser("trainopt status", description="Show the state of each job of a sweep.")
    parser.add_argument(
        "sweep", type=existing_folder, metavar="SWEEP", help="the sweep's folder; or a run's, or one with runs below it"
    )
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP`."""
    del debug
    options = parser().parse_args(arguments)
    jobs = read_job_table(options.sweep)
    if options.json:
        print(json.dumps([asdict(job) for job in jobs], indent=2))
    else:
        show_job_table(jobs)
    return 0
