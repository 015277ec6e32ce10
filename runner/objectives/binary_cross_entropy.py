"""Binary cross-entropy."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .loss import Loss, comparable, of_each


class BinaryCrossEntropy(Loss):
    """Mean of the cross-entropies of sigmoid(outputs) with targets in [0, 1], over samples and outputs.

    Classes are vectors that are 1 at the class and 0 elsewhere: each output is a classifier of its own, one class vs.
    all others (Wightman et al. 2021, arXiv 2110.00476, section 2.2; timm's BinaryCrossEntropy).

    Args:
        num_classes: of the data; None where targets are numbers.
    """

    term = "bce"
    is_softmax = False

    def __init__(self, num_classes: int | None = None):
        self.num_classes = num_classes

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch."""
        return binary_cross_entropy_with_logits(*comparable(outputs, targets, self.num_classes))

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,), the mean over its outputs."""
        pair = comparable(outputs, targets, self.num_classes)
        return of_each(binary_cross_entropy_with_logits(*pair, reduction="none"))

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the probability of each class (B, classes), which need not add up to 1: sigmoid."""
        return outputs.sigmoid()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns sigmoid(outputs), (B, ...)."""
        return outputs.sigmoid()
