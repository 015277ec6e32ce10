"""Averages that an optimizer keeps itself, as schedule-free ones do."""

from typing import Any

import torch

from ..protocols import Averaging, Optimizer
from .base import Progress

BATCH_NORM_BATCHES = 50  # as the README of schedule_free has it


class OptimizerAverage(Averaging):
    """The weights of an optimizer's evaluation mode: its `eval()` sets them.

    With a schedule-free optimizer (Defazio et al. 2024, arXiv 2405.15682) they are x, the average of the iterates z;
    gradients are taken at y, between the two. The running statistics of batch norm are those of y, and are recomputed.

    Args:
        optimizer: has `eval()` and `train()`.
        progress: of the run.
    """

    batch_norm_batches = BATCH_NORM_BATCHES

    def __init__(self, optimizer: Optimizer, progress: Progress):
        self.optimizer = optimizer
        self.progress = progress

    @property
    def count(self) -> int:  # type: ignore[override]
        """The number of steps, each of which has a part in the average."""
        return self.progress.step

    def after_step(self) -> None:
        """Does nothing: the optimizer's step does it."""

    def apply(self) -> None:
        """Sets the parameters to the average; the optimizer stays in training mode."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.eval()
        average = [p.detach().clone() for p in parameters]
        self.optimizer.train()
        with torch.no_grad():
            for p, value in zip(parameters, average, strict=True):
                p.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: the optimizer has the state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing."""


def averages_itself(optimizer: Optimizer) -> bool:
    """Returns whether an optimizer has an evaluation mode.

    Raises:
        ValueError: it has `eval()` and no `train()`, or the other way round.
    """
    has_eval, has_train = (
        getattr(type(optimizer), name, None) is not getattr(Optimizer, name) for name in ("eval", "train")
    )
    if has_eval != has_train:
        names = ("eval()", "train()") if has_eval else ("train()", "eval()")
        raise ValueError(f"{type(optimizer).__name__} has {names[0]} and no {names[1]}")
    return has_eval
