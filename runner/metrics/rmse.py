"""The root mean square error."""

import torch
from torch import Tensor

from ..objectives.loss import Loss, comparable
from .metric import Metric


class RMSE(Metric):
    """Root of the mean of (outputs - targets)^2 over all samples and outputs, in the unit of the targets.

    Classes are vectors that are 1 at the class and 0 elsewhere, as for objective=mse.

    Args:
        num_classes: of the data; None where targets are numbers.
        loss: of the run, which says what outputs predict; None: themselves.
    """

    higher_is_better = False

    def __init__(self, num_classes: int | None = None, loss: Loss | None = None):
        self.num_classes, self._loss = num_classes, loss
        self.reset()

    def reset(self) -> None:
        """Begins a new set."""
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch: outputs and targets (B, ...)."""
        if self._loss is not None:
            outputs = self._loss.predictions(outputs)
        outputs, targets = comparable(outputs, targets, self.num_classes)
        self._sum = self._sum + (outputs - targets).double().square().sum()
        self._count += targets.numel()

    def compute(self) -> float:
        """Returns the root."""
        return (self._sum.item() / self._count) ** 0.5
