"""The jobs of a sweep, checked and planned before the first one starts."""

import hashlib
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, read_write

from ..config.run_names import as_typed, former_sweep_name
from ..config.validate import check_value
from ..records.job_table import PLAN, job_statuses, write_plan
from ..records.run_folder import moved_text
from ..system.errors import UserError, refuse_unwritable
from ..system.files import shown
from ..system.hydra_compat import BASIC_SWEEPER, parse_overrides, product, sweeper_class
from .imports import check_imports_here
from .plan_job import JobPlanner, without_hydra

ANNOUNCED_FROM = 50  # jobs; Hydra composes about 15 configurations a second


def plan_sweep(config: DictConfig) -> Path:
    """Checks the jobs that a sweep starts with and writes sweep.json; returns the sweep's folder.

    Raises:
        UserError: a job cannot be run as it was typed.
    """
    jobs = checked_jobs(config)
    check_imports_here(config, jobs)
    return write_sweep(config, jobs)


def write_sweep(config: DictConfig, jobs: list[dict[str, Any]]) -> Path:
    """Writes the plan of a sweep, sweep.json; returns the sweep's folder.

    Args:
        config: of the sweep.
        jobs: their entries in the plan.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = Path(config.hydra.sweep.dir)
    workers = set_workers(config)
    with refuse_unwritable(folder):
        write_plan(folder, as_typed(config.hydra.overrides.task), jobs, workers)
    return folder


def checked_jobs(config: DictConfig) -> list[dict[str, Any]]:
    """Returns the plan's entries of the jobs that a sweep starts with.

    Raises:
        UserError: a job cannot be run as it was typed.
    """
    folder, typed = Path(config.hydra.sweep.dir), as_typed(config.hydra.overrides.task)
    overrides = [*configured_overrides(config), *parse_overrides(typed)]
    check_same_share(overrides)
    check_swept_classes(overrides)
    former_name = former_sweep_name(typed, config.hydra.runtime.choices, folder.name)
    if former_name is not None and not folder.exists() and (folder.with_name(former_name) / PLAN).exists():
        raise UserError(moved_text(folder.with_name(former_name), folder, "sweep"))
    return first_jobs(config)


def first_jobs(config: DictConfig) -> list[dict[str, Any]]:
    """Returns the jobs that a sweep starts with, as `JobPlanner.plan` does.

    Those of another sweeper than Hydra's own are the result of its method `first_jobs`; none where it has no such.

    Raises:
        UserError: a job cannot be run as it was typed.
    """
    if has_fixed_jobs(config):
        return plan_jobs(config, combinations(config))
    sweeper: Any = sweeper_class(config)
    return sweeper.first_jobs(config) if hasattr(sweeper, "first_jobs") else []


def has_fixed_jobs(config: DictConfig) -> bool:
    """Returns whether all jobs of a sweep are known before it starts, as with Hydra's own sweeper."""
    return config.hydra.sweeper._target_ == BASIC_SWEEPER


def search_digest(config: DictConfig) -> str:
    """Returns 64 hexadecimal digits that two searches share if their options are the same, beside what was typed."""
    parts = (without_hydra(config), config.hydra.sweeper)
    return hashlib.sha256("".join(map(OmegaConf.to_yaml, parts)).encode()).hexdigest()


def combinations(config: DictConfig) -> list[list[str]]:
    """Returns the overrides of each combination of the swept values."""
    return product([*configured_overrides(config), *parse_overrides(as_typed(config.hydra.overrides.task))])


def configured_overrides(config: DictConfig) -> list[Override]:
    """Returns the overrides in hydra.sweeper.params, where an experiment has its grid."""
    return parse_overrides(f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items())


def composed(config: DictConfig, overrides: list[str]) -> DictConfig:
    """Returns the configuration of a run of a sweep, with Hydra's own node."""
    return GlobalHydra.instance().config_loader().load_sweep_config(config, overrides)


def plan_jobs(config: DictConfig, batch: list[list[str]]) -> list[dict[str, Any]]:
    """Returns the plan of each job of a batch, checked.

    Args:
        config: of the sweep.
        batch: the overrides of each job.

    Raises:
        UserError: a job cannot be run as it was typed.
    """
    planner = JobPlanner(config)
    if len(batch) >= ANNOUNCED_FROM:
        print(f"checking the configurations of {len(batch)} jobs", flush=True)
    jobs: dict[str, dict[str, Any]] = {}
    for overrides in batch:
        job = planner.plan(overrides)
        same = jobs.setdefault(job["folder"], job)
        if same["fingerprint"] != job["fingerprint"]:
            raise UserError(f"two jobs of the sweep would share the folder {job['folder']}; give each a run.name")
    return list(jobs.values())


def check_planned(planner: JobPlanner, folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Raises UserError where a run that was planned has another configuration now, as after a change of a default.

    Args:
        planner: of the sweep's jobs.
        folder: the sweep's.
        jobs: of an earlier plan.
    """
    for job in job_statuses(folder, {job["folder"]: planner.plan(job["overrides"]) for job in jobs}):
        if job.state == "outdated":
            raise UserError(
                f"{shown(folder / job.name)}: holds a run with another configuration, as a default has changed since,"
                " or of other code; remove it, or give another folder"
            )


def check_same_share(overrides: list[Override]) -> None:
    """Raises UserError where jobs of a sweep would differ in devices_per_job, which makes no other runs of them."""
    if any(o.key_or_group == "devices_per_job" and o.is_sweep_override() for o in overrides):
        raise UserError("devices_per_job: is the same for all jobs of a sweep; give one value")


def check_swept_classes(overrides: list[Override]) -> None:
    """Raises UserError where a class takes the place of all options of a group that a sweep has several of."""
    swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
    for override in overrides:
        group, _, last = str(override.key_or_group).rpartition(".")
        if last == "_target_" and group in swept:
            raise UserError(
                f"{override.input_line}: would take the place of every {group} of the sweep; write a file"
                f" DIR/{group}/NAME.yaml with that _target_, and type --config-dir DIR {group}=…,NAME"
            )


def check_packing(config: DictConfig) -> None:
    """Raises UserError where the jobs of a sweep cannot have the GPUs that devices_per_job says."""
    from ..devices.packing import KEY, check_share  # imports torch

    share = config[KEY]
    check_value(KEY, share, KEY)
    check_share(share, config.device)
    if share < 1 and config.hydra.launcher.get("n_jobs", 1) == 1:
        raise UserError(f"{KEY}={share:g}: jobs run one at a time here; type hydra/launcher=joblib")
    pruner = config.hydra.sweeper.get("pruner", "none")
    if share > 1 and pruner != "none":
        raise UserError(
            f"{KEY}={share:g}: hydra.sweeper.pruner={pruner} pauses runs, which only runs on one GPU can do; give none"
        )


def set_workers(config: DictConfig) -> int:
    """Returns how many jobs the launcher runs at a time on this machine; sets it where joblib's n_jobs is -1."""
    launcher = config.hydra.launcher
    share = config.devices_per_job
    if share != 1:
        check_packing(config)
    if "n_jobs" not in launcher:
        return 1
    if launcher.n_jobs == 0:
        raise UserError("hydra.launcher.n_jobs=0: must be an integer >= 1, or -1 (as many as suit the machine)")
    if launcher.n_jobs == -1:
        from ..devices.packing import default_workers  # imports torch

        workers = default_workers(config.device, share)
    else:
        from joblib import effective_n_jobs

        workers = effective_n_jobs(launcher.n_jobs)
    with read_write(config.hydra):
        launcher.n_jobs = workers
        launcher.batch_size = "1"  # joblib would batch short jobs, as those that are done, with long ones
    return workers
