"""The end of a run that no longer improves on the validation set, or whose steps have become short."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..metrics.selection import Selection
from ..system.errors import UserError


class EarlyStopping:
    """Counts evaluations without an improvement, and measures steps; its state is part of checkpoints.

    Args:
        patience: evaluations without an improvement after which the run ends; None: it goes on.
        min_delta: the metric must improve on the best by more than this to count, in its unit: percentage points of
            top1.
        selection: the metric that is followed.
        min_step_norm: the run ends after a step of the optimizer that is shorter: ||theta_new - theta_old||_2 over all
            trained parameters < min_step_norm (Menssen 2019, section 2.1, step 9). None: steps are not measured.

    >>> stopping = EarlyStopping(patience=2, min_delta=0.5)
    >>> for top1 in (50.0, 60.0, 60.4, 60.6):
    ...     stopping.observe({"validation": {"top1": top1}})
    >>> stopping.waited, stopping.best, stopping.ends
    (0, 60.6, False)
    """

    def __init__(
        self,
        patience: int | None = None,
        min_delta: float = 0.0,
        selection: Selection = Selection(),  # noqa: B008 - it is a constant
        min_step_norm: float | None = None,
    ):
        self.patience = patience
        self.min_delta = min_delta
        self.selection = selection
        self.min_step_norm = min_step_norm
        self.step_is_short = False  # whether the last step was
        self._before: list[Tensor] = []  # parameters before the step
        self._depth = 0  # of calls of `step` within one another
        self.best: float | None = None
        self.waited = 0

    def check(self, kinds: dict[str, Any]) -> None:
        """Raises UserError where patience is given without a validation set: the test set must not decide."""
        if self.patience is not None and "validation" not in kinds:
            raise UserError(
                f"early_stopping.patience={self.patience}: needs a validation set, as with data.validation=0.1"
            )

    def observe(self, rows: dict[str, dict[str, float]]) -> None:
        """Counts an evaluation; `rows` holds its results, by kind of row."""
        if self.patience is None:
            return
        value = rows["validation"][self.selection.metric]
        sign = self.selection.sign
        if math.isfinite(value) and (self.best is None or sign * (value - self.best) > self.min_delta):
            self.best, self.waited = value, 0
        else:
            self.waited += 1

    def watch(self, optimizer: Any) -> None:
        """Measures the steps of an optimizer, if `min_step_norm` is given.

        Each step then costs a copy of the parameters and a norm.

        Raises:
            UserError: it is no torch.optim.Optimizer.
        """
        if self.min_step_norm is None:
            return
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(
                f"early_stopping.min_step_norm={self.min_step_norm}: needs a torch.optim.Optimizer,"
                f" which {type(optimizer).__name__} is not"
            )
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._depth += 1  # the step of a subclass may call that of its parent, which has the same hooks
        if self._depth == 1:
            self._before = [p.detach().clone() for p in trained(optimizer)]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._depth -= 1
        if self._depth == 0 and self.min_step_norm is not None:
            steps = [p.detach() - before for p, before in zip(trained(optimizer), self._before, strict=True)]
            self.step_is_short = get_total_norm(steps).item() < self.min_step_norm

    @property
    def reason(self) -> str | None:
        """Why the run ends here, or None if it does not."""
        if self.step_is_short:
            return f"the last step was shorter than early_stopping.min_step_norm={self.min_step_norm:g}"
        if self.patience is not None and self.waited >= self.patience:
            return "no improvement on the validation set"
        return None

    @property
    def ends(self) -> bool:
        """Whether the run ends here."""
        return self.reason is not None

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value, the count, and whether the last step was short."""
        return {"best": self.best, "waited": self.waited, "step_is_short": self.step_is_short}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]
        self.step_is_short = state["step_is_short"]


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns the parameters that an optimizer trains."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
