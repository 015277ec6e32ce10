"""`trainopt resume RUN`."""

import argparse
from pathlib import Path

from ..system.errors import UserError


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt resume RUN`."""
    parser = argparse.ArgumentParser("trainopt resume", description="Go on from the last checkpoint of a run.")
    parser.add_argument("run", type=Path, help="the run's folder")
    folder = parser.parse_args(arguments).run
    from ..records.job_table import PLAN
    from ..records.run_folder import read_config
    from ..training.execute import start

    if (folder / PLAN).exists():
        raise UserError(f"{folder}: is a sweep; its command again goes on with it")
    config, choices = read_config(folder)
    return start(config, choices, folder, ["trainopt", "resume", *arguments], debug)
