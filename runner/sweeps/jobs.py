"""The jobs of a sweep, checked and written down before the first begins."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from ..config.data_files import needs
from ..config.prepare import prepare
from ..config.run_names import as_typed, register_resolvers
from ..records.job_table import write_plan
from ..records.run_folder import fingerprint
from ..system.errors import USER_ERROR, UserError
from .interrupt import current

MANY = 50  # jobs: Hydra composes some 15 configurations a second


class Plan(Callback):
    """Hydra's callback at the start of a sweep.

    Raises:
        SystemExit: a job cannot be run as it was typed; its cause says why. (Of other exceptions Hydra makes
            warnings.)
    """

    def __init__(self) -> None:
        register_resolvers()

    def __reduce__(self) -> tuple[Callable[[], "Plan"], tuple[()]]:
        """Lets a worker process that gets this one register the resolvers too."""
        return Plan, ()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks the jobs and write sweep.json."""
        del kwargs
        try:
            folder = Path(config.hydra.sweep.dir)
            jobs = planned_jobs(config)
            write_plan(folder, as_typed(config.hydra.overrides.task), jobs, set_workers(config))
        except Exception as error:
            raise SystemExit(USER_ERROR) from error
        current.set(folder)


def planned_jobs(config: DictConfig) -> list[dict[str, Any]]:
    """Returns what `planned_job` says of each job that a sweep begins with, checked.

    A sweeper other than Hydra's own says them itself, by a method `first_jobs`; without it there are none.
    """
    if all_at_once(config):
        return checked_jobs(config, combinations(config))
    sweeper: Any = Plugins.instance().class_name_to_class.get(config.hydra.sweeper._target_)
    return sweeper.first_jobs(config) if hasattr(sweeper, "first_jobs") else []


def all_at_once(config: DictConfig) -> bool:
    """Returns whether a sweep has no jobs but those that it begins with, as Hydra's own sweeper has."""
    return config.hydra.sweeper._target_ == f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"


def combinations(config: DictConfig) -> list[list[str]]:
    """Returns the overrides of each combination of the values that were typed."""
    return product([*swept_by_config(config), *parsed(as_typed(config.hydra.overrides.task))])


def swept_by_config(config: DictConfig) -> list[Override]:
    """Returns the overrides that the configuration has for sweeps, as an experiment with a grid does."""
    return parsed(f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items())


def parsed(overrides: Iterable[str]) -> list[Override]:
    """Returns overrides as Hydra reads them."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return parser.parse_overrides(list(overrides))


def product(overrides: list[Override]) -> list[list[str]]:
    """Returns each combination of the values of overrides; of two with the same key the last counts."""
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch


def checked_jobs(config: DictConfig, batch: list[list[str]]) -> list[dict[str, Any]]:
    """Returns what `planned_job` says of each job; UserError if one cannot be run as it was typed."""
    loader = GlobalHydra.instance().config_loader()
    if len(batch) >= MANY:
        print(f"checking the configurations of {len(batch)} jobs", flush=True)
    jobs: dict[str, dict[str, Any]] = {}
    for overrides in batch:
        job = planned_job(loader, config, overrides)
        same = jobs.setdefault(job["folder"], job)
        if same["fingerprint"] != job["fingerprint"]:
            raise UserError(f"two jobs of the sweep would share the folder {job['folder']}; leave run.name out")
    return list(jobs.values())


def planned_job(loader: ConfigLoader, config: DictConfig, overrides: list[str]) -> dict[str, Any]:
    """Returns {folder, overrides, fingerprint, duration, needs} of one job; see `needs` for the last.

    Raises:
        UserError: the job cannot be run as it was typed.
    """
    composed = loader.load_sweep_config(config, overrides)
    hydra = HydraConfig.instance()
    before = hydra.cfg
    try:
        hydra.set_config(composed)  # as for a job that is run
        job = OmegaConf.create({key: value for key, value in composed.items_ex(resolve=False) if key != "hydra"})
        settings = HydraConfig.get()
        choices = prepare(job, settings)
        found = {"folder": str(settings.sweep.subdir), "overrides": overrides, "fingerprint": fingerprint(job)}
        return {**found, "duration": job.duration, "needs": needs(job, choices)}
    finally:
        hydra.cfg = before


def set_workers(config: DictConfig) -> int:
    """Returns how many jobs the launcher runs at a time on this machine; for joblib's -1, decide it."""
    launcher = config.hydra.launcher
    if "n_jobs" not in launcher:
        return 1
    if launcher.n_jobs == 0:
        raise UserError("hydra.launcher.n_jobs=0: must be an integer >= 1, or -1 for what suits the machine")
    if launcher.n_jobs == -1:
        from ..system.device import fitting_workers  # imports torch

        workers = fitting_workers(config.device)
    else:
        from joblib import effective_n_jobs

        workers = effective_n_jobs(launcher.n_jobs)
    with read_write(config.hydra):
        launcher.n_jobs = workers
        launcher.batch_size = "1"  # short jobs, as those that are done, are not handed out together with long ones
    return workers
