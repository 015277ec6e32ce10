"""`trainopt submit -m key=a,b …`: a sweep on a cluster; no process waits for it."""

import os
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig

from ...cluster.schedulers import SCHEDULERS
from ...cluster.settings import read_settings, split_arguments
from ...cluster.submissions import FOLDER, read_submissions
from ...cluster.submit import submit
from ...records.job_table import PLAN
from ...sweeps.interrupt import SweepInterrupt
from ...sweeps.jobs import has_fixed_jobs, plan_sweep
from ...sweeps.run_job import Job
from ...system.errors import UserError
from ...system.flags import FlagParser, existing_folder
from ...system.hydra_compat import HydraSession
from ..run import SweepResult, compose_and_run


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt submit",
        description="Submit the runs of a sweep to a cluster: again, only those that are left and not in its queue.",
    )
    parser.add_argument("--to", metavar="|".join(SCHEDULERS), default="slurm", help="the scheduler")
    parser.add_argument("--config-dir", "-cd", type=existing_folder, metavar="DIR", help="of options of your own")
    parser.add_argument("-m", "--multirun", action="store_true", help="as for a sweep on this machine")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=a,b",
        help="a sweep's; and cluster.KEY=VALUE for the keys of cluster/slurm.yaml or cluster/ray.yaml",
    )
    return parser


def command(arguments: list[str], debug: bool) -> int:
    """`trainopt submit [--to slurm|ray] -m key=a,b …`."""
    options = parser().parse_intermixed_args(arguments)
    if options.to not in SCHEDULERS:
        raise UserError(f"submit: --to {options.to}: no such scheduler; there is {', '.join(SCHEDULERS)}")
    if not options.multirun:
        raise UserError("submit: takes a sweep, as trainopt submit -m seed=1,2; a single run is a sweep of one")
    typed, overrides = split_arguments(options.overrides)
    folders = [] if options.config_dir is None else [options.config_dir]
    scheduler = SCHEDULERS[options.to]
    settings = read_settings(typed, folders, options.to, scheduler.settings)
    sweep = ["-m", *overrides, *(text for folder in folders for text in ("--config-dir", str(folder)))]
    is_new = True

    def plan(config: DictConfig) -> Path:
        nonlocal is_new
        scheduler.check(settings, not has_fixed_jobs(config), config.hydra.runtime.choices["hydra/launcher"])
        is_new = not (Path(config.hydra.sweep.dir) / PLAN).exists()
        return plan_sweep(config)

    def launch(hydra: HydraSession, config: DictConfig, job: Job) -> None:
        del hydra, job
        folder = Path(config.hydra.sweep.dir)
        try:
            submit(folder, sweep, settings, not has_fixed_jobs(config), options.to)
        except UserError:
            if is_new:
                remove_plan(folder)
            raise

    job = Job(["trainopt", *sweep], debug, os.getpid())
    with SweepInterrupt() as interrupt:
        result = compose_and_run(sweep, job, interrupt, plan=plan, launch=launch)
        has_failed = isinstance(result, SweepResult) and result.is_stopped
        return interrupt.code if interrupt.signal else int(has_failed)


def remove_plan(sweep: Path) -> None:
    """Removes the plan of a sweep of which nothing was submitted, and its folder where that is empty then."""
    if not read_submissions(sweep):
        (sweep / PLAN).unlink(missing_ok=True)
        for folder in (sweep / FOLDER, sweep):
            with suppress(OSError):  # it is not empty
                folder.rmdir()
