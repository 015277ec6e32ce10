"""`trainopt submit -m key=a,b …`: a sweep on a cluster; no process waits for it."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ...cluster.schedulers import SCHEDULERS
from ...cluster.settings import read_settings, split_arguments
from ...cluster.submissions import FOLDER, is_search_done, read_submissions
from ...cluster.submit import submit
from ...records.job_table import ENDED, PLAN, job_statuses, read_job_table
from ...records.run_folder import OtherRun, remove_if_empty
from ...sweeps.imports import check_imports
from ...sweeps.interrupt import SweepInterrupt
from ...sweeps.jobs import checked_jobs, has_fixed_jobs, search_digest, set_workers, write_sweep
from ...sweeps.plan_job import JobPlanner
from ...sweeps.run_job import Job
from ...sweeps.status import report_of
from ...system.errors import UserError, refuse_unwritable
from ...system.files import shown
from ...system.flags import FlagParser, add_config_dir, config_dir_flags, existing_folder
from ...system.hydra_compat import HydraSession
from ..run import SweepResult, compose_and_run


def parser() -> FlagParser:
    """Returns the parser of the command's arguments."""
    parser = FlagParser(
        "trainopt submit",
        description="Submit the runs of a sweep to a cluster; again: only those that are left and not queued.",
    )
    parser.add_argument("--to", metavar="|".join(SCHEDULERS), default="slurm", help="the scheduler; default: slurm")
    add_config_dir(parser, existing_folder, "folder of your own options")
    parser.add_argument("--dry-run", action="store_true", help="print the tasks and the batch script; submit nothing")
    parser.add_argument("-m", "--multirun", action="store_true", help="needed, as for a sweep on this machine")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=a,b",
        help="overrides of the sweep; and cluster.KEY=VALUE, see trainopt --help cluster",
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
    scheduler = SCHEDULERS[options.to]
    settings = read_settings(typed, options.config_dir, options.to, scheduler.settings)
    sweep = ["-m", *overrides, *config_dir_flags(options.config_dir)]
    is_new, jobs, outdated = True, [], ""

    def plan(config: DictConfig) -> Path:
        nonlocal is_new, jobs
        scheduler.check(settings, not has_fixed_jobs(config), config.hydra.runtime.choices["hydra/launcher"])
        folder = Path(config.hydra.sweep.dir)
        is_new = not (folder / PLAN).exists()
        jobs = checked_jobs(config)
        check_imports(config, settings.setup)
        if options.dry_run:
            set_workers(config)
            return folder
        return write_sweep(config, jobs)

    def launch(hydra: HydraSession, config: DictConfig, job: Job) -> None:
        nonlocal outdated
        del hydra, job
        folder = Path(config.hydra.sweep.dir)
        try:
            if not has_fixed_jobs(config) and is_search_over(folder, sweep, config):
                report = report_of(folder)
                where = "" if report is None else f"; result: {shown(report)}"
                print(f"the search is done; trainopt status {shlex.quote(shown(folder))} shows its trials{where}")
                return
            outdated = outdated_text(config, folder, jobs)
            with refuse_unwritable(folder):
                submit(folder, jobs, sweep, settings, not has_fixed_jobs(config), options.to, options.dry_run)
        except UserError:
            if is_new:
                remove_plan(folder)
            raise

    job = Job(["trainopt", *sweep], debug, os.getpid())
    with SweepInterrupt() as interrupt:
        result = compose_and_run(sweep, job, interrupt, plan=plan, launch=launch)
        if outdated:
            print(f"trainopt: {outdated}", file=sys.stderr)
        has_failed = (isinstance(result, SweepResult) and result.is_stopped) or bool(outdated)
        return interrupt.code if interrupt.signal else int(has_failed)


def is_search_over(sweep: Path, arguments: list[str], config: DictConfig) -> bool:
    """Returns whether a search came to its end on the cluster, and no trial of it failed."""
    is_done = is_search_done(sweep, arguments, search_digest(config))
    return is_done and all(job.state in ENDED for job in read_job_table(sweep))


def remove_plan(sweep: Path) -> None:
    """Removes the plan of a sweep of which nothing was submitted, and its folder where that is empty then."""
    if not read_submissions(sweep):
        (sweep / PLAN).unlink(missing_ok=True)
        for folder in (sweep / FOLDER, sweep):
            remove_if_empty(folder.resolve())


def outdated_text(config: DictConfig, sweep: Path, jobs: list[dict[str, Any]]) -> str:
    """Returns a line on jobs whose folders hold other runs, which are left as they are; empty: there are none.

    Args:
        config: of the sweep.
        sweep: its folder.
        jobs: their entries in the plan.
    """
    states = job_statuses(sweep, {job["folder"]: job for job in jobs})
    outdated = [job for job in states if job.state == "outdated"]
    if not outdated:
        return ""
    first = outdated[0]
    try:
        JobPlanner(config).check_same_run(sweep / first.name, first.overrides)
        difference = f"{sweep / first.name}: holds another run"
    except OtherRun as error:
        difference = error.difference
    if len(outdated) == 1:
        text, folders = "a job is outdated:", "the folder"
    else:
        status = f"trainopt status {shlex.quote(shown(sweep))}"
        text, folders = f"{len(outdated)} jobs are outdated ({status} names them), as", "their folders"
    again = f"remove {folders} and submit again, or give hydra.sweep.dir=DIR for a new sweep"
    return f"{text} {difference}; {again}"
