"""Updates whose learning rate is scaled by the batch size and by batch reuse."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from trainopt.data import Batching, Position
from trainopt.optimizers import Optimizer
from trainopt.optimizers.compat_torch import step_without_record

from ..precision.loss_scaling import LossScaling
from .progress import Progress


class ScaledUpdate:
    """Makes the update r = 0, 1, … on a batch with the learning rate lr * f * factor^r.

    lr is the schedule's learning rate, f the factor that follows from the batch size, and the power is for "changing
    the stepsize in the subsequent iterations to mitigate overfit" (Mandatelli 2018, chapter 4). After the update, also
    one that fails, the optimizer has lr again: schedules and checkpoints never contain the factors.

    Args:
        optimizer: its learning rates are scaled during an update.
        batching: f is its `lr_factor`, the factor its `repeat_lr_factor`.
        progress: r is its `repeat`.
        scaling: of the loss, which makes the updates of the optimizer; None: the optimizer makes them.
        main_group: the index of the parameter group whose learning rate is `lr`.

    Attributes:
        step: makes an update with a closure. Where the factors are 1 it is the optimizer's own `step`, at no cost.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        batching: Batching,
        progress: Progress,
        scaling: LossScaling | None = None,
        main_group: int = 0,
    ):
        self._optimizer, self._batching, self._progress, self._main_group = optimizer, batching, progress, main_group
        self._is_scaled = batching.repeat_lr_factor != 1 or batching.changes_lr is not None
        self._scale = 1.0
        self._update: Callable[[Any], Any] = step_without_record(optimizer) if scaling is None else scaling.step
        self.step: Callable[[Any], Any] = self._scaled_step if self._is_scaled else self._update

    def made_by(self, wrap: Callable[[Callable[[Any], Any]], Callable[[Any], Any]]) -> None:
        """Lets updates be made by what `wrap` makes of the function that makes them, of a closure."""
        self._update = wrap(self._update)
        if not self._is_scaled:
            self.step = self._update

    @property
    def lr(self) -> Any:
        """Learning rate of the last update, in the main group; None where the optimizer has none."""
        group = self._optimizer.param_groups[self._main_group]
        lr = group["lr"] * self._scale if self._is_scaled else group.get("lr")
        return lr.item() if isinstance(lr, Tensor) else lr  # timm's Adafactor leaves a tensor there

    def _scaled_step(self, closure: Any) -> Any:
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self._scale = scale_of_next(self._batching, self._progress)
        try:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * self._scale
            return self._update(closure)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def scale_of_next(batching: Batching, progress: Progress) -> float:
    """Returns the factor on the schedule's learning rate for the next update of a run."""
    scale = batching.repeat_lr_factor**progress.repeat
    if batching.changes_lr is None:
        return scale
    begun = Position(progress.epoch, progress.offset, 0, progress.step - progress.repeat)
    return scale * batching.lr_factor(begun, progress.epoch_size)


def main_group(optimizer: Optimizer) -> int:
    """Returns the index of the first parameter group with the optimizer's own learning rate; 0 where there is none."""
    lr = getattr(optimizer, "defaults", {}).get("lr")
    return next((i for i, group in enumerate(optimizer.param_groups) if group.get("lr") == lr), 0)
