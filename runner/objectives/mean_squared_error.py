"""The square loss."""

from torch import Tensor
from torch.nn.functional import mse_loss

from .elementwise import ElementwiseLoss


class MeanSquaredError(ElementwiseLoss):
    """Mean of (outputs - targets)^2 over samples and outputs.

    Classes are vectors that are 1 at the class and 0 elsewhere, and the outputs are used as they are, without softmax
    (Hui and Belkin 2021, arXiv 2006.07322, section 2); mixed images have the mixed vectors. For many classes the paper
    scales the loss of the true class c:

        ( k (f_c - M)^2 + sum over i != c of f_i^2 ) / number of classes

    Of a mixed vector t this is the mean of (1 + (k - 1) t_i) (f_i - M t_i)^2.

    Args:
        num_classes: of the data; None where targets are numbers.
        true_class_weight: k, > 0.
        true_class_target: M, > 0.

    Raises:
        ValueError: k or M is not positive, or is not 1 where targets are numbers.

    >>> import torch
    >>> outputs, classes = torch.tensor([[1.0, 4.0]]), torch.tensor([1])
    >>> MeanSquaredError(2)(outputs, classes), MeanSquaredError(2, 2.0, 5.0)(outputs, classes)
    (tensor(5.), tensor(1.5000))
    """

    term = "mse"
    function = staticmethod(mse_loss)

    def __init__(self, num_classes: int | None = None, true_class_weight: float = 1.0, true_class_target: float = 1.0):
        super().__init__(num_classes)
        for key, value in {"true_class_weight": true_class_weight, "true_class_target": true_class_target}.items():
            if value <= 0:
                raise ValueError(f"{key}={value}: must be > 0")
            if value != 1 and num_classes is None:
                raise ValueError(f"{key}={value}: is about classes, and the targets are numbers; leave it out")
        self.true_class_weight, self.true_class_target = true_class_weight, true_class_target

    def pair(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns outputs and targets times the root of their weights, whose square loss is the scaled one."""
        outputs, targets = super().pair(outputs, targets)
        if self.true_class_weight == self.true_class_target == 1:
            return outputs, targets
        roots = (1 + (self.true_class_weight - 1) * targets).sqrt()
        return roots * outputs, roots * self.true_class_target * targets

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Raises ValueError: the outputs are no logits."""
        raise ValueError("needs probabilities, and outputs that are trained by objective=mse are none")
