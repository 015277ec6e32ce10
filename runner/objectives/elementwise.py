"""Losses that are a mean over samples and outputs."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from .loss import Loss, comparable, of_each


class ElementwiseLoss(Loss):
    """The mean of a function of each output and its target, over samples and outputs.

    Args:
        num_classes: of the data; None where targets are numbers.

    Attributes:
        function: of outputs, targets and `reduction`, as those of torch.nn.functional.
    """

    is_softmax = False
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, num_classes: int | None = None):
        self.num_classes = num_classes

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch."""
        return type(self).function(*self.pair(outputs, targets))

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,), the mean over its outputs."""
        return of_each(type(self).function(*self.pair(outputs, targets), reduction="none"))

    def pair(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the arguments of the function, of one shape."""
        return comparable(outputs, targets, self.num_classes)
