"""`trainopt status SWEEP`."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..records.job_table import read_job_table
from ..sweeps.status import show_job_table


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP`."""
    del debug
    parser = argparse.ArgumentParser("trainopt status", description="Show the state of each job of a sweep.")
    parser.add_argument("sweep", type=Path, help="the sweep's folder; or a run's, or one with runs below it")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    options = parser.parse_args(arguments)
    jobs = read_job_table(options.sweep)
    if options.json:
        print(json.dumps([asdict(job) for job in jobs], indent=2))
    else:
        show_job_table(jobs)
    return 0
