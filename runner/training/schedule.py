"""Builds the learning-rate schedule of a run, with warm-up before it."""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import ceil

from omegaconf import DictConfig

from trainopt.optimizers import Constant, Optimizer, ProgressSchedule, Schedule, WarmUp

from ..config.contracts import complete
from ..config.durations import Duration
from ..config.instantiate import construct, find, takes
from ..config.options import COMMON
from ..state.progress import Progress
from ..state.update_scale import main_group
from ..system.errors import UserError

LOOKS = 50  # at the learning rates to come
SHORT_END = 0.05  # of a run, in which a learning rate of 0 needs no word


def check_sets_lr(config: DictConfig, optimizer: Optimizer) -> None:
    """Refuses a schedule or a warm-up for an optimizer that computes its learning rate."""
    if not optimizer.sets_lr:
        return
    name, warmup = type(optimizer).__name__, config.schedule.warmup
    if find(config.schedule, "schedule") is not Constant:
        raise UserError(f"schedule: {name} computes its learning rate itself; give schedule=constant")
    if warmup is not None:
        raise UserError(f"schedule.warmup={warmup}: {name} computes its learning rate itself; give null")


def build_schedule(
    config: DictConfig, optimizer: Optimizer, progress: Progress, directions: Mapping[str, bool], notes: list[str]
) -> tuple[Schedule, str | None, int]:
    """Returns the schedule, the duration of a range test, or None where it is none, and the `main_group`.

    A class with an argument `warmup` gets it; for others warm-up is done here.

    Args:
        config: of the run.
        optimizer: of the run.
        progress: of the run.
        directions: whether higher is better, for each metric of an evaluation that has a direction.
        notes: gets one on a range test.

    Raises:
        UserError: it cannot be built, or not for this optimizer.
    """
    check_sets_lr(config, optimizer)
    main = main_group(optimizer)  # a schedule changes the learning rates
    node = config.schedule
    offered = {"optimizer": optimizer, "progress": progress, "directions": directions}
    plugin = construct(node, "schedule", common=COMMON["schedule"], **offered)
    schedule = complete(plugin, Schedule, "schedule")
    over = schedule.over if schedule.is_range_test else None
    if over is not None and not Duration.is_valid(over):
        raise UserError(f"schedule: {type(schedule).__name__}.over is {over!r}, and must be a duration, as in 5epochs")
    if over:
        notes.append(f"a range test, which takes {over}: it writes a row a step, and no best.pt")
    if node.warmup is None or takes(node._target_, "warmup"):
        return schedule, over, main
    try:
        return WarmUp(schedule, optimizer, progress, node.warmup, node.warmup_from), over, main
    except ValueError as error:
        raise UserError(f"schedule.warmup={node.warmup}: {error}") from error


def warmup_notes(warmup: str | None, duration: str, batches: int) -> list[str]:
    """Returns a note where a run ends within its warm-up; or none.

    Args:
        warmup: its duration; None: there is none.
        duration: of the run; of a time nothing is known.
        batches: in an epoch.
    """
    if warmup is None:
        return []
    lengths = [Duration.parse(text) for text in (warmup, duration)]
    if any(length.unit == "seconds" for length in lengths):
        return []
    over, whole = (length.amount * (batches if length.unit == "epochs" else 1) for length in lengths)
    if over <= whole:
        return []
    steps = f"{ceil(whole):,} steps"
    return [f"schedule.warmup={warmup} is longer than the run, {steps}: the learning rate never reaches its full value"]


def zero_lr_notes(schedule: Schedule, progress: Progress, duration: str) -> list[str]:
    """Returns a note where the learning rate becomes 0 long before the end of the run, and stays so; or none.

    Args:
        schedule: at the present position; of one that follows more than the progress, nothing is known.
        progress: of the run.
        duration: of the run.
    """
    main = schedule.schedule if isinstance(schedule, WarmUp) else schedule
    if not isinstance(main, ProgressSchedule) or not any(main.base_lrs):
        return []
    if type(main).lr_of is ProgressSchedule.lr_of:  # it has a `get_lr` alone
        return []
    whole = Duration.parse(duration)
    if whole.unit == "seconds":
        return []
    in_steps = whole.unit == "steps"
    now, unit = (progress.step, 1) if in_steps else (progress.samples_passed, progress.epoch_size)
    length = whole.amount * unit
    positions = [now + (length - now) * Fraction(k, LOOKS) for k in range(LOOKS + 1)]
    end_of_learning = LOOKS + 1
    for k, position in reversed(list(enumerate(positions))):
        # the other unit by what the run did so far; of a run that begins nothing is known, and it stands still
        samples = position * Fraction(progress.samples_passed, progress.step or 1) if in_steps else position
        step = position if in_steps else position * Fraction(progress.step, progress.samples_passed or 1)
        main.progress = replace(progress, step=int(step), samples_passed=int(samples))
        is_zero = not any(ProgressSchedule.get_lr(main))  # that of a subclass may set the momentum as well
        main.progress = progress
        if not is_zero:
            break
        end_of_learning = k
    if end_of_learning > (1 - SHORT_END) * LOOKS:
        return []
    begin = f"{float(positions[end_of_learning] / unit):.4g}{whole.unit}"
    return [f"the learning rate is 0 from {begin} to the end of the run, {duration}: the weights stay as they are"]


def levels_of(schedule: Schedule, duration: Duration) -> list[Fraction] | None:
    """Returns where the levels of a schedule's learning rate begin, as increasing fractions of the run, the first 0.

    Args:
        schedule: its `levels` are durations.
        duration: of the run; None is returned where the levels are in another unit, or there are none.
    """
    levels = schedule.levels()
    if levels is None:
        return None
    lengths = [Duration.parse(text) for text in ([levels] if isinstance(levels, str) else levels)]
    if any(length.unit != duration.unit for length in lengths):
        return None
    fractions = {length.amount / duration.amount for length in lengths}
    if isinstance(levels, str):
        (period,) = fractions
        fractions = {k * period for k in range(1, ceil(1 / period))}
    return [Fraction(0), *sorted(fraction for fraction in fractions if fraction < 1)]
