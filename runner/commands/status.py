"""`trainopt status SWEEP`."""

import argparse
from pathlib import Path


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt status SWEEP`."""
    del debug
    parser = argparse.ArgumentParser("trainopt status", description="Show what became of a sweep's jobs.")
    parser.add_argument("sweep", type=Path, help="the sweep's folder; or a run's, or one with runs below it")
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of a table")
    given = parser.parse_args(arguments)
    from ..records.job_table import read_job_table
    from ..sweeps.status import as_json, show

    entries = read_job_table(given.sweep)
    print(as_json(entries)) if given.json else show(entries)
    return 0
