"""Cross-entropy."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from .loss import Loss, of_each


class CrossEntropy(Loss):
    """Cross-entropy of the softmax of outputs, logits (B, classes), with classes (B,) or their probabilities.

    Args:
        label_smoothing: fraction of the target that is spread over all classes (Szegedy et al. 2016), in training.

    Raises:
        ValueError: `label_smoothing` is not in [0, 1).
    """

    term = "cross_entropy"

    def __init__(self, label_smoothing: float = 0.0):
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be in [0, 1)")
        self.label_smoothing = label_smoothing

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch."""
        return cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,); in evaluation without label smoothing."""
        smoothing = self.label_smoothing if training else 0.0
        return of_each(cross_entropy(outputs, targets, label_smoothing=smoothing, reduction="none"))
