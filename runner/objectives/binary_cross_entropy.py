"""Binary cross-entropy."""

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .elementwise import ElementwiseLoss


class BinaryCrossEntropy(ElementwiseLoss):
    """Mean of the cross-entropies of sigmoid(outputs) with targets in [0, 1], over samples and outputs.

    Classes are vectors that are 1 at the class and 0 elsewhere: each output is a classifier of its own, one class vs.
    all others (Wightman et al. 2021, arXiv 2110.00476, section 2.2; timm's BinaryCrossEntropy).

    Args:
        num_classes: of the data; None where targets are numbers.
    """

    term = "bce"
    function = staticmethod(binary_cross_entropy_with_logits)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the probability of each class (B, classes), which need not add up to 1: sigmoid."""
        return outputs.sigmoid()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns sigmoid(outputs), (B, ...)."""
        return outputs.sigmoid()
