"""The expected calibration error."""

import torch
from torch import Tensor

from ..objectives.loss import Loss
from .metric import Metric


class CalibrationError(Metric):
    """Expected calibration error in percent (Guo et al. 2017, arXiv 1706.04599, equation 3).

    ECE = sum_b |B_b| / n |accuracy(B_b) - confidence(B_b)|

    B_b holds the samples whose confidence, the probability of the predicted class, lies in ((b - 1) / bins, b / bins].
    The probabilities are those that the objective defines: softmax; with objective=bce, sigmoid.

    Args:
        loss: the objective; None: probabilities are the softmax.
        bins: M in the paper.

    Raises:
        ValueError: `bins` is below 1, or the objective defines no probabilities.
    """

    higher_is_better = False
    needs_classes = True

    def __init__(self, loss: Loss | None = None, bins: int = 15):
        if bins < 1:
            raise ValueError(f"bins={bins}: must be at least 1")
        self._probabilities = loss.probabilities if loss is not None else _softmax
        self._probabilities(torch.zeros(1, 2))
        self.bins = bins
        self.reset()

    def reset(self) -> None:
        """Begins a new set."""
        self._gaps = torch.zeros(self.bins, dtype=torch.float64)  # of each bin: sum of (right - confidence)
        self._count = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Adds a batch: outputs (B, classes), targets (B,)."""
        confidence, classes = self._probabilities(outputs.double()).max(1)
        edges = torch.linspace(0, 1, self.bins + 1, dtype=torch.float64, device=outputs.device)
        bins = torch.bucketize(confidence, edges[1:-1]).flatten()
        gaps = ((classes == targets).double() - confidence).flatten()
        self._gaps = self._gaps.to(outputs.device).index_add(0, bins, gaps)
        self._count += gaps.numel()

    def compute(self) -> float:
        """Returns the error in percent."""
        return 100 * self._gaps.abs().sum().item() / self._count


def _softmax(outputs: Tensor) -> Tensor:
    return outputs.softmax(1)
