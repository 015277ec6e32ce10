"""Runs the jobs of one task of a submission: `python -m trainopt.runner.commands.cluster.worker SUBMISSION INDEX`.

That is what a task on Ray runs; one of SLURM calls `work`.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ...cluster.attempts import record_open_jobs
from ...cluster.steps import has_several_processes, run_steps
from ...cluster.submissions import note_search_end, read_submission
from ...config.overrides import config_folders
from ...records.job_table import exit_code, job_status, read_jobs
from ...sweeps.interrupt import SweepInterrupt
from ...sweeps.jobs import plan_sweep, search_digest, set_workers
from ...sweeps.run_job import Job
from ...system.environment import add_working_directory, set_variables
from ...system.errors import UserError, exit_code_of
from ...system.flags import config_dirs
from ...system.hydra_compat import HydraSession
from ...system.interrupt import Interrupt
from ...system.lock import folders_being_written
from ...system.streams import protect_streams
from ..run import compose_and_run, report_sweep

LONGEST_WAIT_SECONDS = 60.0  # for a process that ends
POLL_SECONDS = 0.5


def work(path: Path, index: int) -> int:
    """Runs the jobs of a task that have not ended; returns the exit code.

    Args:
        path: of the submission's file.
        index: of the task.
    """
    protect_streams()
    set_variables()
    add_working_directory()
    submission, sweep = read_submission(path), path.parent.parent
    folders = submission.tasks[index]
    has_processes = folders and submission.scheduler == "slurm" and has_several_processes()
    job = Job(["trainopt", *submission.arguments], debug=False, launcher=os.getpid())

    def run() -> int:
        with SweepInterrupt() as interrupt:
            if folders:
                code = run_jobs(sweep, folders, submission.arguments, job, interrupt)
            else:
                digests: list[str] = []

                def plan(config: DictConfig) -> Path:
                    digests.append(search_digest(config))
                    return plan_sweep(config)

                result = compose_and_run(submission.arguments, job, interrupt, plan=plan)
                code = result if isinstance(result, int) else report_sweep(result, job.command)
                if not code and not interrupt.signal:
                    note_search_end(path, *digests)
            return interrupt.code if interrupt.signal else code

    def run_on_processes() -> int:
        with Interrupt() as interrupt:
            interrupt.patient = True
            plans = {plan["folder"]: plan for plan in read_jobs(sweep)}
            options = [f"--config-dir={folder}" for folder in config_folders(submission.arguments)]
            run_steps(sweep, [plans[folder] for folder in folders], options, interrupt)
            return interrupt.code if interrupt.signal else code_of(sweep, folders, plans)

    def checked() -> int:
        try:
            for typed in config_dirs(submission.arguments):
                if not Path(typed).is_dir():
                    raise UserError(f"--config-dir {typed}: is no folder any more; trainopt submit with the new one")
            return run_on_processes() if has_processes else run()
        except UserError as error:
            record_open_jobs(path, index, error)
            raise

    return exit_code_of(checked, debug=False)


def run_jobs(sweep: Path, folders: list[str], arguments: list[str], job: Job, interrupt: SweepInterrupt) -> int:
    """Runs jobs of a sweep by its launcher, without composing the others; returns the exit code.

    Args:
        sweep: its folder.
        folders: of the jobs, relative to it.
        arguments: of the sweep's command.
        job: called with the configuration of each run.
        interrupt: entered.
    """
    plans = {plan["folder"]: plan for plan in read_jobs(sweep)}

    def launch(hydra: HydraSession, config: DictConfig, job: Job) -> None:
        set_workers(config)
        hydra.launch(config, job, [plans[folder]["overrides"] for folder in folders])

    compose_and_run(arguments, job, interrupt, plan=lambda config: sweep, launch=launch)
    return code_of(sweep, folders, plans)


def code_of(sweep: Path, folders: list[str], plans: dict[str, dict[str, Any]]) -> int:
    """Returns the exit code of a task: 0 if all of its jobs have ended."""
    return exit_code(job_status(sweep, folder, plans[folder], alive=False) for folder in folders)


def end_with_parent() -> None:
    """Waits until the process that holds the other end of standard input is gone; then ends this one by SIGTERM."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Runs the task that the command line names, and exits with its code.

    A process of an attempt before this one, whose parent was killed, may still write its checkpoint: it is waited for.
    """
    path, index = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=end_with_parent, daemon=True).start()
    folders = [path.parent.parent / name for name in read_submission(path).tasks[index]]
    until = time.monotonic() + LONGEST_WAIT_SECONDS
    while folders_being_written(folders) and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    sys.exit(work(path, index))


if __name__ == "__main__":
    main()
