"""The learning-rate schedule of a run, with the warm-up in front of it."""

from fractions import Fraction
from math import ceil
from typing import Any

from omegaconf import DictConfig

from trainopt.optimizers import Constant, WarmUp

from ..config.durations import Duration
from ..config.instantiate import construct, find, takes
from ..config.options import shipped
from ..state.progress import Progress
from ..system.errors import UserError

COMMON = tuple(shipped("config.yaml")["schedule"])


def check_schedule(config: DictConfig, optimizer: Any) -> None:
    """Refuses a schedule or a warm-up for an optimizer that computes its learning rate."""
    if not getattr(optimizer, "sets_lr", False):
        return
    name, warmup = type(optimizer).__name__, config.schedule.warmup
    if find(config.schedule, "schedule") is not Constant:
        raise UserError(f"schedule: {name} computes its learning rate itself; give schedule=constant")
    if warmup is not None:
        raise UserError(f"schedule.warmup={warmup}: {name} computes its learning rate itself; give null")


def build_schedule(config: DictConfig, optimizer: Any, progress: Progress) -> tuple[Any, str | None]:
    """Returns the schedule, and, of a range test, how long it takes.

    A class that takes `warmup` itself gets it, and does it itself.

    Raises:
        UserError: it cannot be built, or cannot be run as the configuration says.
    """
    node = config.schedule
    schedule = construct(node, "schedule", common=COMMON, optimizer=optimizer, progress=progress)
    over = schedule.over if getattr(schedule, "is_range_test", False) else None
    patience = config.early_stopping.patience
    if over is not None and patience is not None:
        raise UserError(
            f"early_stopping.patience={patience}: a range test begins with rates that improve nothing; give null"
        )
    if config.keep_checkpoints.at_restarts and not callable(getattr(schedule, "cycles", None)):
        raise UserError(
            f"keep_checkpoints.at_restarts=true: {type(schedule).__name__} has no restarts;"
            " give schedule=cosine_restarts or cyclic, or false"
        )
    if node.warmup is None or takes(node._target_, "warmup"):
        return schedule, over
    try:
        return WarmUp(schedule, optimizer, progress, node.warmup, node.warmup_from), over
    except ValueError as error:
        raise UserError(f"schedule.warmup={node.warmup}: {error}") from error


def levels_of(schedule: Any, duration: Duration) -> list[Fraction] | None:
    """Returns where the levels of a schedule's learning rate begin, as rising shares of the run, the first 0.

    None: it says none in its method `levels`, or in another unit than the duration's.
    """
    found = schedule.levels() if hasattr(schedule, "levels") else None
    if found is None:
        return None
    lengths = [Duration.parse(text) for text in ([found] if isinstance(found, str) else found)]
    if any(length.unit != duration.unit for length in lengths):
        return None
    shares = {length.amount / duration.amount for length in lengths}
    if isinstance(found, str):
        (share,) = shares
        shares = {k * share for k in range(1, ceil(1 / share))}
    return [Fraction(0), *sorted(share for share in shares if share < 1)]
