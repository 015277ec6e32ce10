"""The square loss."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .elementwise import ElementwiseLoss


class MeanSquaredError(ElementwiseLoss):
    """Mean of (outputs - targets)^2 over samples and outputs.

    Classes are vectors that are 1 at the class and 0 elsewhere, and the outputs are used as they are, without softmax
    (Hui and Belkin 2021, arXiv 2006.07322, section 2); mixed images have the mixed vectors.

    Args:
        num_classes: of the data; None where targets are numbers.
    """

    term = "mse"
    function = staticmethod(mse_loss)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Raises ValueError: the outputs are no logits."""
        raise ValueError("needs probabilities, and outputs that are trained by objective=mse are none")
