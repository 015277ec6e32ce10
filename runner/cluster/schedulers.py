"""The schedulers by the names that `--to` takes."""

from typing import Any

from .ray import Ray
from .scheduler import Scheduler
from .slurm import Slurm

COMMANDS = f"{__package__.rpartition('.')[0]}.commands.cluster"  # the package of what tasks run
SCHEDULERS: dict[str, Scheduler[Any]] = {"slurm": Slurm(f"{COMMANDS}.task"), "ray": Ray(f"{COMMANDS}.ray_job")}
