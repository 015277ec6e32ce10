"""The learning rate falls where the validation set shows no improvement."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..arguments import check_choice
from ..protocols import Schedule
from .base import learning_rates

DIRECTIONS = MappingProxyType({"loss": False, "top1": True})  # whether higher is better


class Plateau(Schedule):
    """Multiplies the learning rate by `factor` after evaluations that show no improvement.

    torch's ReduceLROnPlateau does it, on the validation set: the test set never decides.

    Args:
        optimizer: its learning rates are set.
        metric: of the validation set: one of `directions`.
        factor: on the learning rate, in (0, 1).
        patience: evaluations without an improvement that are accepted; the next one lowers the learning rate.
        min_delta: what an improvement must exceed, in units of the metric.
        cooldown: evaluations after a reduction that are not counted.
        min_lr: the lowest learning rate.
        directions: whether higher is better, for each metric of an evaluation.

    Raises:
        ValueError: factor is not in (0, 1), the metric is unknown, or the optimizer's groups have no `lr`.
    """

    needs_validation = True

    def __init__(
        self,
        optimizer: Optimizer,
        metric: str = "loss",
        factor: float = 0.1,
        patience: int = 10,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        directions: Mapping[str, bool] = DIRECTIONS,
    ):
        check_choice("metric", metric, directions)
        if not 0 < factor < 1:
            raise ValueError(f"factor={factor}: must be in (0, 1)")
        learning_rates(optimizer)
        self.metric = metric
        mode: Literal["min", "max"] = "max" if directions[metric] else "min"
        self._scheduler = ReduceLROnPlateau(optimizer, mode, factor, patience, min_delta, "abs", cooldown, min_lr)

    def step(self) -> None:
        """Does nothing: learning rates change after evaluations."""

    def after_evaluation(self, rows: dict[str, dict[str, Any]]) -> None:
        """Lowers the learning rates if the validation set has shown no improvement for too long."""
        self._scheduler.step(rows["validation"][self.metric])

    def state_dict(self) -> dict[str, Any]:
        """Returns the best value and the counts of evaluations."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._scheduler.load_state_dict(state)
