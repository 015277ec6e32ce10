"""Which systems of equations a step solves for linear softmax classifiers: one for all, or one a parameter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .softmax_hessian import LinearSoftmax
from .softmax_recorder import Classifier


class BiasSystem:
    """The Hessian as the bias of a linear softmax classifier alone sees it, diag(d) - P^T s P, in closed form.

    P (n, C) are the probabilities, s (n, 1) the factor of each row's cross-entropy in the loss, and d is the sum
    of s P over the rows. A product takes 2 n C multiplications.

    Args:
        classifier: as `Recorder` finds it.
        bias: its own.

    Attributes:
        params, gradient, like: one each, the bias and dL/db.
        whole: multiplications of a gradient of this classifier, for Z and for G^T X.
        cost, cost_of_product, cost_of_along: in such gradients.
    """

    def __init__(self, classifier: Classifier, bias: Tensor):
        self.params = [bias]
        self.gradient = self.like = [classifier.gradient.sum(0)]
        self._P = torch.softmax(classifier.logits, 1)
        self._scaled = self._P * classifier.scale
        self._diagonal = self._scaled.sum(0)
        n, C = self._P.shape
        self.whole = 2 * n * classifier.inputs.shape[1] * C
        self.cost = 0.0
        self.cost_of_product = self.cost_of_along = 2 * n * C / self.whole

    def times(self, vector: Tensor, last: bool = False) -> Tensor:
        """Returns H v."""
        return (self._diagonal * vector).sub_(self._scaled.t() @ (self._P @ vector))

    def along(self, vectors: Sequence[Tensor], last: bool = False) -> Tensor:
        """Returns v H v, a scalar."""
        return vectors[0].dot(self.times(vectors[0]))

    def changes(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns by parameter what vectors are for it."""
        return {self.params[0]: vectors[0]}

    def add(self, vectors: Sequence[Tensor]) -> None:
        """Adds a vector to the bias."""
        self.params[0].add_(vectors[0])


def softmax_systems(
    classifiers: Sequence[Classifier], iterations: int, apart: bool
) -> list[LinearSoftmax | BiasSystem]:
    """Returns the systems; their costs are in gradients of the whole loss.

    Args:
        classifiers: as `Recorder` finds them.
        iterations: how many products are to come at most with each; 1 is one `along`.
        apart: one system for each weight and for each bias, as if the Hessian were block-diagonal.
    """
    if not apart:
        return [LinearSoftmax(classifiers, iterations)]
    found: list[LinearSoftmax | BiasSystem] = []
    for classifier in classifiers:
        found.append(LinearSoftmax([classifier._replace(trains_bias=False)], iterations))
        if classifier.trains_bias and classifier.bias is not None:
            found.append(BiasSystem(classifier, classifier.bias))
    whole = sum(system.whole for system in found if isinstance(system, LinearSoftmax))
    for system in found:
        share = system.whole / whole
        system.cost *= share
        system.cost_of_product *= share
        system.cost_of_along *= share
    return found
