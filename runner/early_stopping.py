"""Ending a run that no longer gets better on the held-out images."""

import math
from typing import Any

from .errors import UserError

SIGN = {"top1": 1.0, "loss": -1.0}  # what is better: more, or less


class EarlyStopping:
    """Counts the evaluations since the last improvement; part of a run's checkpoint.

    Args:
        patience: evaluations without an improvement after which the run ends; None: it goes on.
        minimum_change: `metric` must improve on the best by more than this to count: percentage points of top1, or
            the mean loss.
        metric: `top1` or `loss`.

    >>> stopping = EarlyStopping(patience=2, minimum_change=0.5)
    >>> for top1 in (50.0, 60.0, 60.4, 60.6):
    ...     stopping.observe({"validation": {"top1": top1}})
    >>> stopping.waited, stopping.best, stopping.ends
    (0, 60.6, False)
    """

    def __init__(self, patience: int | None = None, minimum_change: float = 0.0, metric: str = "top1"):
        self.patience = patience
        self.minimum_change = minimum_change
        self.metric = metric
        self.best: float | None = None
        self.waited = 0

    def check(self, kinds: dict[str, Any]) -> None:
        """Raise UserError if it is asked for where nothing is held out: the test set must not decide."""
        if self.patience is not None and "validation" not in kinds:
            raise UserError(
                f"early_stopping.patience={self.patience}: needs held-out images to look at,"
                " as with data.validation=0.1"
            )

    def observe(self, rows: dict[str, dict[str, float]]) -> None:
        """Take note of an evaluation, given by kind of row."""
        if self.patience is None:
            return
        value = rows["validation"][self.metric]
        sign = SIGN[self.metric]
        if math.isfinite(value) and (self.best is None or sign * (value - self.best) > self.minimum_change):
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    @property
    def ends(self) -> bool:
        """Whether the run ends here."""
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what it has seen."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]
