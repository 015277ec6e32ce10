"""What Hydra calls with a composed configuration: a run, or a job of a sweep."""

import os
import sys
from importlib import import_module
from pathlib import Path
from signal import Signals
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ..config.prepare import prepare
from ..config.run_names import as_typed, key_of
from ..records.job_table import PLAN, job_status
from ..records.run_folder import OtherConfiguration, record_failure, remove_if_empty, summary_if_done
from ..system.display import Display
from ..system.errors import FAILED, UserError, tell
from ..system.files import read_json
from ..system.interrupt import SIGNALS
from ..system.isolation import isolated
from ..system.lock import Busy
from ..training.execute import start
from .interrupt import stop_mark

TRAINING = ("trainopt.runner.training.build", "trainopt.runner.training.loop")
RECORD_WRITER = "tensorboard.summary.writer.record_writer"  # what records/tensorboard.py imports


def run_job(config: DictConfig, command: list[str], debug: bool, launcher: int) -> int:
    """Checks a composed configuration and run it in the folder that Hydra chose; returns the exit code.

    Args:
        config: without Hydra's own node.
        command: what was typed.
        debug: whether tracebacks are shown.
        launcher: the number of the process in which it was typed.
    """
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    try:
        typed = [key_of(override) for override in as_typed(settings.overrides.hydra)]
        ours = settings.sweeper._target_.startswith(f"{__package__}.")  # an experiment may choose one of these
        if settings.mode == RunMode.RUN and (ours or "hydra/sweeper" in typed):
            sweeper = settings.runtime.choices["hydra/sweeper"]
            raise UserError(f"hydra/sweeper={sweeper}: is for sweeps; type trainopt -m …")
        choices = prepare(config, settings)
        if settings.mode == RunMode.MULTIRUN:
            return run_of_sweep(config, choices, folder, command, debug, launcher)
        return start(config, choices, folder, command, debug)
    except UserError as error:
        remove_if_empty(folder)
        return tell(error, debug)


def run_of_sweep(
    config: DictConfig, choices: dict[str, Any], folder: Path, command: list[str], debug: bool, launcher: int
) -> int:
    """Runs a job of a sweep, unless it is done, in a process of its own; returns its exit code.

    A configuration that cannot be built is a failure of this job, on record in its folder.
    """
    settings = HydraConfig.get()
    sweep = Path(settings.sweep.dir)
    name = settings.sweep.subdir
    plan = read_json(sweep / PLAN)
    workers = plan.get("workers", 1)
    is_tournament = any("role" in job for job in plan.get("jobs", ()))  # many short runs
    in_a_line = workers > 1 or is_tournament
    summary = summary_if_done(folder, config)
    if summary is not None:
        print(f"already {summary['status']}: {name}", flush=True)
        return 0
    if stop_mark(sweep, launcher).exists():
        return FAILED
    import_once()
    from ..system.device import shared_machine

    def work() -> int:
        try:
            with shared_machine(workers, config.device):
                return start(config, choices, folder, command, debug, Display(quiet=in_a_line))
        except UserError as error:
            if not isinstance(error, Busy | OtherConfiguration):
                record_failure(folder, error)
            return tell(error, debug)

    code = isolated(work, is_worker=os.getpid() != launcher)
    if code > 128 and code - 128 not in SIGNALS:  # to those it answers itself
        number = Signals(code - 128).name
        print(f"trainopt: {name}: was killed ({number}); the same command goes on with it", file=sys.stderr)
    if in_a_line:
        found = job_status(sweep, name, {}, alive=False)
        figures = "" if found.top1 is None else f", top-1 {found.top1:.2f} %"
        print(f"{found.state}: {name}{figures}", flush=True)
    return code


def import_once() -> None:
    """Imports here what every job's process, a copy of this one, would take seconds to import."""
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for GPUs then starts nothing on them
    for name in (
        "trainopt.runner.training.build",
        "trainopt.runner.training.loop",
        "matplotlib.figure",
        RECORD_WRITER,
    ):
        import_module(name)
    import torch

    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports the compiler
