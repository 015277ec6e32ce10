"""Accuracies of classes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .metric import Metric

RANKS = 5  # classes that are ranked; equal logits have the same order in all accuracies


class Ranking:
    """Whether the classes of the largest outputs are the right ones, computed once a batch for several accuracies."""

    def __init__(self) -> None:
        self._outputs: Tensor | None = None
        self._is_right = torch.empty(0)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns which of the classes, in the order of their outputs, are the targets (B, 5 or fewer)."""
        if outputs is not self._outputs:
            self._outputs = outputs
            self._is_right = outputs.topk(min(RANKS, outputs.shape[1]), dim=1).indices == targets[:, None]
        return self._is_right


class TopAccuracy(Metric):
    """Percentage of samples whose class is among the k of the largest outputs; 100 with k classes or less.

    Args:
        k: 1 to 5.

    Attributes:
        ranking: of the classes of a batch; metrics of one evaluation may share it.

    Raises:
        ValueError: k is out of its range.
    """

    higher_is_better = True
    needs_classes = True

    def __init__(self, k: int = 1):
        if not 1 <= k <= RANKS:
            raise ValueError(f"k={k}: must be 1 to {RANKS}")
        self.k, self.ranking = k, Ranking()
        self.reset()

    def reset(self) -> None:
        """Begins a new set."""
        self._right, self._count = torch.zeros((), dtype=torch.int64), 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Counts a batch: outputs (B, classes), targets (B,)."""
        self._right = self._right + self.ranking(outputs, targets)[:, : self.k].any(1).sum()
        self._count += targets.numel()

    def compute(self) -> float:
        """Returns the percentage."""
        return 100 * self._right.item() / self._count


class ConfusionMatrix(Metric):
    """Number of samples of each class (row) that are predicted as each class (column).

    Args:
        num_classes: of the data.
    """

    needs_classes = True

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        """Begins a new set."""
        self._counts = torch.zeros(self.num_classes**2, dtype=torch.int64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Counts a batch: outputs (B, classes), targets (B,)."""
        cells = (targets * self.num_classes + outputs.argmax(1)).flatten()
        self._counts = self._counts.to(cells.device) + torch.bincount(cells, minlength=len(self._counts))

    def compute(self) -> Tensor:
        """Returns the counts (classes, classes)."""
        return self._counts.view(self.num_classes, self.num_classes)


class PerClassAccuracy(ConfusionMatrix):
    """Percentage of the samples of each class that are predicted as it; not a number for a class without samples.

    Args:
        num_classes: of the data.
    """

    def compute(self) -> Tensor:
        """Returns the percentages (classes,)."""
        counts = super().compute()
        return 100 * counts.diagonal().double() / counts.sum(1)


def accuracies(batches: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Returns the top-1 accuracy of each batch (logits (B, classes), targets (B,)), in percent.

    Where targets are probabilities (B, classes), as with mixup, it is the mean probability of the predicted classes.
    Batches of one size are compared together: for small ones that takes a tenth of the time.
    """
    by_size: dict[int, list[int]] = {}
    for index, (_, targets) in enumerate(batches):
        by_size.setdefault(len(targets), []).append(index)
    percentages = [0.0] * len(batches)
    for size, indices in by_size.items():
        logits, targets = (torch.stack([batches[i][part] for i in indices]) for part in (0, 1))
        classes = logits.argmax(2)
        if targets.is_floating_point():
            probabilities = targets.gather(2, classes[:, :, None])[:, :, 0].tolist()
            sums = [math.fsum(row) for row in probabilities]  # whatever batches are stacked with it
        else:
            sums = (classes == targets).sum(1).tolist()
        for index, right in zip(indices, sums, strict=True):
            percentages[index] = 100 * right / size
    return percentages
