"""One run from Python, as in a notebook."""

import os
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from ..records.frames import LoadedRun, RunError, load_run
from ..sweeps.interrupt import SweepInterrupt
from ..sweeps.run_job import Job
from ..system.environment import add_working_directory, set_variables, with_config_dir
from ..system.errors import FAILED, USER_ERROR, UserError
from .run import compose_and_run


class CallerJob(Job):
    """A run for a caller, who gets its folder and its error of the user instead of a line on the screen."""

    folder: Path
    error: UserError

    def run(self, config: DictConfig, folder: Path) -> int:
        """Runs a composed configuration in a folder, which is kept; returns the exit code."""
        self.folder = folder
        return super().run(config, folder)

    def report(self, error: UserError) -> int:
        """Keeps an error of the user; returns the exit code."""
        self.error = error
        return USER_ERROR


def train(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> LoadedRun:
    """Trains one run, as the command `trainopt` does, and returns its records.

    Its folder lies below outputs/ in the working directory. The same call again continues the run, or, if it is done,
    returns its records.

        run = train(["model=mlp", "duration=2epochs"])
        run.metrics.query("kind == 'test'").top1

    Args:
        overrides: what is typed after `trainopt`, as `group=option` and `key=value`.
        config_dir: a folder of further options, DIR/GROUP/OPTION.yaml.

    Returns:
        What `load_run` returns for the run's folder. Its `summary["status"]` is finished or diverged.

    Raises:
        UserError: an override is wrong, a component cannot be built, or the run is done and its code has changed since;
            nothing was written then.
        RunError: the run failed; log.txt in its folder has the traceback.
        KeyboardInterrupt: it was interrupted, after a checkpoint.
    """
    for text in [overrides] if isinstance(overrides, str) else overrides:
        if text.startswith("-") or isinstance(overrides, str):
            raise UserError(f"train({text!r}): takes a list of overrides, as ['model=mlp', 'seed=1']")
    set_variables()
    add_working_directory()
    arguments = with_config_dir([*overrides, *([] if config_dir is None else ["--config-dir", str(config_dir)])])
    job = CallerJob(["trainopt", *arguments], debug=False, launcher=os.getpid())
    with SweepInterrupt() as interrupt:
        code = compose_and_run(arguments, job, interrupt, sweeps=False)
    if code == USER_ERROR:
        raise job.error
    if code == FAILED:
        raise RunError(f"{job.folder}: the run failed; see log.txt there")
    if code:
        raise KeyboardInterrupt
    return load_run(job.folder)
