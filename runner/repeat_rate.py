"""The learning rate of a batch's repeats."""

from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:  # build checks with what is here
    from .build import Run


class RepeatRate:
    """Makes update r = 0, 1, … on a batch with the learning rate lr * factor^r, lr being what the schedule says.

    ("Changing the stepsize in the subsequent iterations to mitigate overfit", Mandatelli 2018, chapter 4.) Once an
    update is made, or failed, the optimizer holds lr again: schedules and checkpoints never see the factor.

    Args:
        run: its batching says the factor as `repeat_lr_factor`, its progress r.

    Attributes:
        step: makes an update with a closure. Where the factor is 1, the optimizer's own `step`: it costs nothing.
    """

    def __init__(self, run: "Run"):
        self._optimizer, self._progress = run.optimizer, run.progress
        self._factor = factor_of(run.batching)
        self._scale = 1.0
        self.step = run.optimizer.step if self._factor == 1 else self._scaled_step

    @property
    def lr(self) -> Any:
        """The learning rate of the last update, in the first group; None where the optimizer has none."""
        lr = self._optimizer.param_groups[0].get("lr")
        return lr if self._factor == 1 else lr * self._scale

    def _scaled_step(self, closure: Any) -> Any:
        groups = self._optimizer.param_groups
        rates = [group["lr"] for group in groups]
        self._scale = self._factor**self._progress.repeat
        try:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * self._scale
            return self._optimizer.step(closure)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate


def check_repeat_rate(batching: Any, optimizer: Any) -> None:
    """Refuse a factor on the learning rate for an optimizer that has none, or sets it."""
    factor, name = factor_of(batching), type(optimizer).__name__
    if factor == 1:
        return
    if getattr(optimizer, "sets_lr", False):
        raise UserError(f"batching.repeat_lr_factor={factor}: {name} computes its learning rate itself; give 1")
    if not all("lr" in group for group in optimizer.param_groups):
        raise UserError(f"batching.repeat_lr_factor={factor}: {name} has no learning rate; give 1")


def factor_of(batching: Any) -> float:
    """Return what a batching multiplies the learning rate by from one repeat to the next."""
    return getattr(batching, "repeat_lr_factor", 1.0)
