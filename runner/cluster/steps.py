"""Runs on several processes, on one node or more: each is a step of its task, whose processes srun starts."""

import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..config.quoting import literal
from ..records.job_table import ENDED, job_status
from ..records.run_folder import record_failure
from ..system.errors import UserError
from ..system.interrupt import Interrupt
from .slurm import run

# the names that torch.distributed reads, as torchrun sets them
RANK = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'
POLL_SECONDS = 0.5
PROGRAM = __package__.rpartition(".")[0]  # trainopt.runner


def has_several_processes() -> bool:
    """Returns whether SLURM gave this task several processes, all of which are for one run at a time."""
    return int(os.environ.get("SLURM_NTASKS", "1")) > 1


def run_steps(sweep: Path, jobs: list[dict[str, Any]], options: list[str], interrupt: Interrupt) -> None:
    """Runs jobs one after the other, each on all processes of the task, until a signal comes.

    Args:
        sweep: its folder.
        jobs: their entries in the plan.
        options: of the command line of each run, beside its overrides.
        interrupt: entered, and patient.
    """
    for job in jobs:
        if interrupt.signal:
            return
        if job_status(sweep, job["folder"], job, alive=False).state in ENDED:
            continue
        folder = sweep / job["folder"]
        typed = [*job["overrides"], *options, f"hydra.run.dir={literal(str(folder.resolve()))}"]
        code = run_step([sys.executable, "-u", "-m", PROGRAM, *typed], interrupt)
        begun = job_status(sweep, job["folder"], job, alive=False).state != "missing"
        if code and not interrupt.signal and not begun:
            record_failure(
                folder, UserError(f"did not begin: its processes ended with code {code}; see the task's log")
            )


def run_step(command: list[str], interrupt: Interrupt) -> int:
    """Runs a command in all processes of the task; returns its exit code. A signal to this process gets to them."""
    step = ["srun", *srun_options(), "bash", "-c", RANK, "bash", *command]
    process = subprocess.Popen(step, env={**os.environ, **rendezvous()})
    is_stopped = False
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
        if interrupt.signal and not is_stopped:
            is_stopped = True
            with suppress(UserError):  # srun itself would kill them; this reaches the steps of the task only
                run(["scancel", "--signal=TERM", os.environ["SLURM_JOB_ID"]])


def srun_options() -> list[str]:
    """Returns the options of a step: cores of each process, which srun does not take over from the task."""
    cores = os.environ.get("SLURM_CPUS_PER_TASK")
    return [f"--cpus-per-task={cores}"] if cores else []


def rendezvous() -> dict[str, str]:
    """Returns the variables by which processes meet: at the first node, which this task runs on, at a free port."""
    is_one_node = os.environ.get("SLURM_JOB_NUM_NODES", "1") == "1"
    return {"MASTER_ADDR": "127.0.0.1" if is_one_node else socket.gethostname(), "MASTER_PORT": str(free_port())}


def free_port() -> int:
    """Returns the number of a TCP port that nobody listens at.

    It is drawn below those that systems give to connections: one of these may be taken before somebody listens.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return port
