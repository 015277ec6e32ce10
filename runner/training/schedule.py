"""The learning-rate schedule of a run, with the warm-up in front of it."""

from fractions import Fraction
from math import ceil

from omegaconf import DictConfig

from trainopt.optimizers import Constant, Optimizer, Schedule, WarmUp

from ..config.contracts import complete
from ..config.durations import Duration
from ..config.instantiate import construct, find, takes
from ..config.options import shipped
from ..state.progress import Progress
from ..system.errors import UserError

COMMON = tuple(shipped("config.yaml")["schedule"])


def check_sets_lr(config: DictConfig, optimizer: Optimizer) -> None:
    """Refuses a schedule or a warm-up for an optimizer that computes its learning rate."""
    if not optimizer.sets_lr:
        return
    name, warmup = type(optimizer).__name__, config.schedule.warmup
    if find(config.schedule, "schedule") is not Constant:
        raise UserError(f"schedule: {name} computes its learning rate itself; give schedule=constant")
    if warmup is not None:
        raise UserError(f"schedule.warmup={warmup}: {name} computes its learning rate itself; give null")


def build_schedule(config: DictConfig, optimizer: Optimizer, progress: Progress) -> tuple[Schedule, str | None]:
    """Returns the schedule, and, of a range test, how long it takes.

    A class that takes `warmup` itself gets it, and does it itself.

    Raises:
        UserError: it cannot be built, or cannot be run as the configuration says.
    """
    check_sets_lr(config, optimizer)
    node = config.schedule
    plugin = construct(node, "schedule", common=COMMON, optimizer=optimizer, progress=progress)
    schedule = complete(plugin, Schedule, "schedule")
    over = schedule.over if schedule.is_range_test else None
    patience = config.early_stopping.patience
    if over is not None and patience is not None:
        raise UserError(
            f"early_stopping.patience={patience}: a range test begins with rates that improve nothing; give null"
        )
    if config.keep_checkpoints.at_restarts and schedule.cycles() is None:
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


def levels_of(schedule: Schedule, duration: Duration) -> list[Fraction] | None:
    """Returns where the levels of a schedule's learning rate begin, as rising shares of the run, the first 0.

    None: it says none in its method `levels`, or in another unit than the duration's.
    """
    levels = schedule.levels()
    if levels is None:
        return None
    lengths = [Duration.parse(text) for text in ([levels] if isinstance(levels, str) else levels)]
    if any(length.unit != duration.unit for length in lengths):
        return None
    shares = {length.amount / duration.amount for length in lengths}
    if isinstance(levels, str):
        (share,) = shares
        shares = {k * share for k in range(1, ceil(1 / share))}
    return [Fraction(0), *sorted(share for share in shares if share < 1)]
