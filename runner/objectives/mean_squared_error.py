"""The square loss."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .loss import Loss, comparable, of_each


class MeanSquaredError(Loss):
    """Mean of (outputs - targets)^2 over samples and outputs.

    Classes are vectors that are 1 at the class and 0 elsewhere, and the outputs are used as they are, without softmax
    (Hui and Belkin 2021, arXiv 2006.07322, section 2); mixed images have the mixed vectors.

    Args:
        num_classes: of the data; None where targets are numbers.
    """

    term = "mse"
    is_softmax = False

    def __init__(self, num_classes: int | None = None):
        self.num_classes = num_classes

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch."""
        return mse_loss(*comparable(outputs, targets, self.num_classes))

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,), the mean over its outputs."""
        return of_each(mse_loss(*comparable(outputs, targets, self.num_classes), reduction="none"))

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Raises ValueError: the outputs are no logits."""
        raise ValueError("needs probabilities, and outputs that are trained by objective=mse are none")
