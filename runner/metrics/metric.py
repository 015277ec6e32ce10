"""What a metric is, and its result as values of a row."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from torch import Tensor


class Metric(Protocol):
    """A function of the outputs and targets of a whole set: any torchmetrics.Metric, or a class with these members.

        metric.reset()
        metric.update(outputs, targets)      for each batch
        value = metric.compute()

    It may take the argument `num_classes`, which is None where targets are no classes. A torch.nn.Module is used on
    the device of the batches.

    Attributes:
        higher_is_better: the direction of a scalar; None: it has none, and cannot be `selection_metric`.
        needs_classes: whether targets must be classes.
    """

    higher_is_better: bool | None = None
    needs_classes: bool = False

    @abstractmethod
    def reset(self) -> None:
        """Begins a new set."""

    @abstractmethod
    def update(self, outputs: Tensor, targets: Tensor, /) -> Any:
        """Takes the outputs of a network in evaluation mode (B, ...), float32, and targets (B, ...), as they are."""

    @abstractmethod
    def compute(self) -> Any:
        """Returns the value over the set: a number, a vector or a matrix; or several, a dict by name."""


def values_of(name: str, result: Any) -> dict[str, Any]:
    """Returns what a metric computed as values of a row: numbers, and arrays of one or more dimensions.

    >>> values_of("f1", {"macro": np.float64(0.5), "each": [0.25, 0.75]})
    {'f1_macro': 0.5, 'f1_each': array([0.25, 0.75])}

    Args:
        name: the metric's.
        result: of `compute`.

    Raises:
        ValueError: it is neither a number, an array nor a dict of these.
    """
    if isinstance(result, Mapping):
        return {n: v for key, part in result.items() for n, v in values_of(f"{name}_{key}", part).items()}
    if isinstance(result, Tensor):
        result = result.detach().cpu()
        return {name: result.item() if result.dim() == 0 else result.numpy()}
    try:
        array = np.asarray(result)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"compute() must return a number, an array or a dict of these, not {type(result).__name__}")
    return {name: array.item() if array.ndim == 0 else array}


def scalars(row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row without its arrays, which have a file of their own."""
    return {name: value for name, value in row.items() if not isinstance(value, np.ndarray)}
