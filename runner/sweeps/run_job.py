"""The function that Hydra calls with a composed configuration: it runs a run, or a job of a sweep."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from signal import Signals
from typing import IO, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ..config.options import CONF, Vocabulary
from ..config.overrides import config_folders
from ..config.prepare import own_files_named, prepare
from ..config.quoting import literal
from ..config.run_names import as_typed, former_run_name, key_of, register_resolvers
from ..provenance.environment import code_version
from ..records.job_table import PLAN, job_status, sweep_jobs
from ..records.run_folder import (
    DONE,
    OtherRun,
    check_former_name,
    fingerprint,
    read_summary,
    record_failure,
    remove_if_empty,
    selected_value,
    strict_code,
    summary_if_done,
)
from ..system.display import Display
from ..system.environment import add_working_directory, launched_rank, launched_size
from ..system.errors import FAILED, UserError, report_error
from ..system.files import read_json
from ..system.interrupt import stop_signals
from ..system.isolation import run_isolated
from ..system.lock import Busy, is_being_written
from ..system.streams import protect_streams
from ..training.execute import start
from .interrupt import stop_file

SEARCHES = f"{__package__.rpartition('.')[0]}.search."  # the beginning of the names of our sweepers
RECORD_WRITER = "tensorboard.summary.writer.record_writer"  # what records/tensorboard.py imports


@dataclass
class Job:
    """The task function of Hydra; a launcher may pickle it for other processes.

    Attributes:
        command: what was typed.
        debug: whether tracebacks are shown.
        launcher: the number of the process in which it was typed.
        strict: whether a single run that diverged has an exit code of its own.
        token: of the launching process, as of `stop_file`.
    """

    command: list[str]
    debug: bool
    launcher: int
    strict: bool = False
    token: str = field(default_factory=lambda: token_hex(8))

    def __setstate__(self, state: dict[str, Any]) -> None:
        protect_streams()  # of a worker process, which unpickles this
        add_working_directory()
        register_resolvers()  # it composes the configuration afterwards
        self.__dict__ |= state

    def __call__(self, config: DictConfig) -> float:
        """Checks a composed configuration and runs it in the folder that Hydra chose.

        Args:
            config: without Hydra's own node.

        Returns:
            The exit code of a run. In a sweep, whose jobs have their status in their folders, the metric that a sweeper
            of others (as Hydra's plugins for Nevergrad and Ax are) minimizes or maximizes: see `selected_value`.
        """
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with own_files_named(HydraConfig.get()):
                code = self.run(config, folder)
        except UserError as error:
            remove_if_empty(folder)
            code = self.report(error)
        return selected_value(folder) if HydraConfig.get().mode == RunMode.MULTIRUN else code

    def report(self, error: UserError) -> int:
        """Reports an error of the user; returns the exit code."""
        return report_error(error, self.debug)

    def run(self, config: DictConfig, folder: Path) -> int:
        """Checks a composed configuration and runs it in a folder; returns the exit code.

        Raises:
            UserError: the configuration is wrong, or cannot be built.
        """
        settings = HydraConfig.get()
        typed = [key_of(override) for override in as_typed(settings.overrides.hydra)]
        ours = settings.sweeper._target_.startswith(SEARCHES)  # an experiment may choose one of these
        if settings.mode == RunMode.RUN and (ours or "hydra/sweeper" in typed):
            sweeper = settings.runtime.choices["hydra/sweeper"]
            raise UserError(f"hydra/sweeper={sweeper}: is for sweeps; type trainopt -m …")
        choices = prepare(config, settings)
        if settings.mode == RunMode.RUN and launched_size() > 1:  # by a job, for its processes
            for sweep, plan in sweep_jobs([folder]).values():
                self._check_planned(config, sweep, folder, plan)
        if settings.mode == RunMode.RUN and config.devices_per_job != 1:
            share = f"devices_per_job={config.devices_per_job:g}"
            raise UserError(f"{share}: is for the runs of sweeps; torchrun starts one run on several GPUs")
        check_former_name(folder, config, former_run_name(choices, as_typed(settings.overrides.task), folder.name))
        if settings.mode == RunMode.MULTIRUN:
            return self._run_in_sweep(config, choices, folder)
        code = start(config, choices, folder, self.command, self.debug)
        return strict_code(code, folder) if self.strict else code

    def _check_planned(self, config: DictConfig, sweep: Path, folder: Path, plan: dict[str, Any]) -> None:
        """Raises UserError where a job has another configuration than was planned, and records it as failed.

        That is so where a YAML was changed while the job waited.

        Args:
            config: of the job.
            sweep: the sweep's folder.
            folder: the job's.
            plan: its entry in the plan.
        """
        is_planned = plan.get("fingerprint") in (None, fingerprint(config), fingerprint(config, usual=False))
        if is_planned or read_summary(folder).get("status") in DONE or is_being_written(folder):
            return
        options = Vocabulary([*config_folders(self.command[1:]), CONF])
        files, planned = options.files_of(HydraConfig.get().runtime.choices), (sweep / PLAN).stat().st_mtime
        changed = [str(path) for path in files if path.stat().st_mtime > planned]
        what = ", ".join(changed) or "the configuration"
        error = UserError(f"{what} has changed since the sweep was planned; type its command again")
        if launched_rank() == 0:
            record_failure(folder, error, refused=True)
        raise error

    def _run_in_sweep(self, config: DictConfig, choices: dict[str, Any], folder: Path) -> int:
        """Runs a job of a sweep, unless it is done, in a process of its own; returns its exit code.

        A configuration that cannot be built is a failure of this job, recorded in its folder.
        """
        settings = HydraConfig.get()
        sweep = Path(settings.sweep.dir)
        name = settings.sweep.subdir
        plan = read_json(sweep / PLAN)
        workers = plan.get("workers", 1)
        jobs = plan.get("jobs", ())
        is_search = any("role" in job or "trial" in job for job in jobs)  # many short runs
        in_a_line = workers > 1 or is_search
        planned: dict[str, Any] = next((job for job in jobs if job["folder"] == name), {})
        self._check_planned(config, sweep, folder, planned)
        pause_after = planned.get("pause_after")
        try:
            summary = summary_if_done(folder, config)
        except OtherRun as error:
            again = "remove the folder and give the same command again, or give hydra.sweep.dir=DIR for a new sweep"
            raise OtherRun(error.difference, again) from error
        if summary is not None:
            print(f"already {summary['status']}: {name}", flush=True)
            return 0
        if stop_file(sweep, self.token).exists():
            print(f"not started, as the sweep was stopped: {name}", flush=True)
            return FAILED
        import_once()
        from ..devices.packing import shared_machine

        def work() -> int:
            try:
                machine = shared_machine(workers, config.device, config.devices_per_job)
                with own_files_named(settings), machine as files:
                    if config.devices_per_job > 1:
                        return self._run_on_gpus(int(config.devices_per_job), folder, files, in_a_line)
                    display = Display(quiet=in_a_line)
                    return start(config, choices, folder, self.command, self.debug, display, pause_after=pause_after)
            except UserError as error:
                if not isinstance(error, Busy | OtherRun):
                    record_failure(folder, error, refused=True)
                return report_error(error, self.debug)

        code = run_isolated(work, is_worker=os.getpid() != self.launcher)
        if code > 128 and code - 128 not in stop_signals():  # those the job handles itself
            number = Signals(code - 128).name
            print(f"trainopt: {name}: was killed ({number}); the same command continues it", file=sys.stderr)
        if in_a_line:
            job = job_status(sweep, name, {}, alive=False)
            top1 = "" if job.top1 is None else f", test top-1 {job.top1:.2f} %"
            print(f"{job.state}: {name}{top1}", flush=True)
        return code

    def _run_on_gpus(self, count: int, folder: Path, files: Sequence[IO[bytes]], quiet: bool) -> int:
        """Runs a job of a sweep on several GPUs, which this process holds; returns the exit code."""
        from ..devices.torchrun import run_processes

        settings = HydraConfig.get()
        options = [f"--config-dir={path}" for path in config_folders(self.command[1:])] + ["--debug"] * self.debug
        place = f"hydra.run.dir={literal(str(folder.resolve()))}"
        typed = [*as_typed(settings.overrides.task), "devices_per_job=1", place, *options]
        code = run_processes(count, typed, files, quiet)
        if (
            0 < code < 128
            and job_status(Path(settings.sweep.dir), settings.sweep.subdir, {}, alive=False).state == "missing"
        ):
            record_failure(folder, UserError(f"did not begin: its {count} processes ended with code {code}"))
        return code


def import_once() -> None:
    """Imports here what every job's process, a copy of this one, would take seconds to import."""
    for name in (
        "trainopt.runner.training.build",
        "trainopt.runner.training.loop",
        "matplotlib.figure",
        RECORD_WRITER,
    ):
        import_module(name)
    import torch

    torch.optim.SGD([torch.zeros(1)])  # the first optimizer imports the compiler
    code_version()  # three processes of git
