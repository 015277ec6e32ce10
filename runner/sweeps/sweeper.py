"""What sweepers that search have in common: their arguments, and running the jobs of a sweep that has a plan."""

import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ..config.validate import check_value
from ..records.job_table import OPEN_SEARCH, PLAN, write_plan
from ..system.files import read_json, write_json
from ..system.hydra_compat import numbered_from
from ..system.lock import folders_being_written, this_process
from .interrupt import stop_file

POLL_SECONDS = 1.0  # between two looks for the end of jobs that another process runs


class SearchSweeper(Sweeper):
    """Chooses jobs by the results of earlier ones."""

    def __init__(self) -> None:
        self.launched = 0
        self.ended: set[str] = set()  # folders of jobs that need not be launched again

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Takes the configuration of the sweep, and gets the launcher from Hydra."""
        self.sweep_config = config
        self.command: list[str] = task_function.command  # type: ignore[attr-defined]  # of a Job
        self.token: str = task_function.token  # type: ignore[attr-defined]
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Searches; returns the result, or None if it was stopped. A file says that the search has not ended."""
        del arguments
        file = Path(self.sweep_config.hydra.sweep.dir) / OPEN_SEARCH
        write_json(file, {**this_process(), "command": self.command})
        return self.find_best()

    @abstractmethod
    def find_best(self) -> Any:
        """Runs trials until the search ends; returns the result, or None if it was stopped."""

    @classmethod
    def settings(cls, config: DictConfig) -> dict[str, Any]:
        """Returns the arguments of the class from the configuration, checked."""
        node: dict[Any, Any] = OmegaConf.to_container(config.hydra.sweeper, resolve=True)  # type: ignore[assignment]
        settings = {str(key): value for key, value in node.items() if key != "_target_"}
        for key, value in settings.items():
            check_value(f"hydra.sweeper.{key}", value, f"hydra.sweeper.{key}")
        return settings

    def run_jobs(self, folder: Path, jobs: list[dict[str, Any]]) -> bool:
        """Runs those of the jobs that are not done; returns whether all have ended and none was told to stop.

        Jobs that another process runs, as when the same command is typed twice, are waited for.
        """
        is_stopped = stop_file(folder, self.token).exists
        jobs = [job for job in jobs if job["folder"] not in self.ended]
        self.ended |= {job["folder"] for job in jobs}
        while jobs and not is_stopped():
            overrides = [job["overrides"] for job in jobs]
            with numbered_from(self.launched):
                for result in self.launcher.launch(overrides, initial_job_idx=self.launched):
                    _ = result.return_value  # raises what the job raised
            self.launched += len(jobs)
            places = {folder / job["folder"]: job for job in jobs}
            elsewhere = folders_being_written(list(places))
            jobs = [places[place] for place in places if place in elsewhere]
            if jobs:
                print(f"waiting for {len(jobs)} of the trials, which another process runs", flush=True)
            while elsewhere and not is_stopped():
                time.sleep(POLL_SECONDS)
                elsewhere = folders_being_written(list(elsewhere))
        return not is_stopped()


def extend_plan(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Adds jobs to the plan of a sweep."""
    plan = read_json(folder / PLAN)
    write_plan(folder, plan["overrides"], jobs, plan["workers"])
