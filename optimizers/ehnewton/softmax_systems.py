"""The systems of equations that a step solves for linear softmax classifiers: one for all, or one a parameter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .softmax_hessian import LinearSoftmax
from .softmax_recorder import Classifier


class BiasSystem:
    """The Hessian with respect to the bias of a linear softmax classifier, diag(d) - P^T s P, in closed form.

    P (n, C) are the probabilities, s (n, 1) the factor of each row's cross-entropy in the loss, and d is the sum
    of s P over the rows. A product takes 2 n C multiplications.

    Args:
        classifier: from `SoftmaxHeadRecorder`.
        bias: the classifier's.

    Attributes:
        params, gradient, like: one tensor each, the bias and dL/db.
        multiplications: of a gradient of this classifier, for Z and for G^T X.
        cost, cost_of_product, cost_of_quadratic_form: in such gradients.
    """

    def __init__(self, classifier: Classifier, bias: Tensor):
        self.params = [bias]
        self.gradient = self.like = [classifier.gradient.sum(0)]
        self._P = torch.softmax(classifier.logits, 1)
        self._scaled = self._P * classifier.scale
        self._diagonal = self._scaled.sum(0)
        n, C = self._P.shape
        self.multiplications = 2 * n * classifier.inputs.shape[1] * C
        self.cost = 0.0
        self.cost_of_product = self.cost_of_quadratic_form = 2 * n * C / self.multiplications

    def matvec_flat(self, vector: Tensor, free_graph: bool = False) -> Tensor:
        """Returns H v."""
        return (self._diagonal * vector).sub_(self._scaled.t() @ (self._P @ vector))

    def quadratic_form(self, vectors: Sequence[Tensor], free_graph: bool = False) -> Tensor:
        """Returns v H v, a scalar."""
        return vectors[0].dot(self.matvec_flat(vectors[0]))

    def to_parameters(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns a vector by parameter."""
        return {self.params[0]: vectors[0]}

    def add_to_parameters(self, vectors: Sequence[Tensor]) -> None:
        """Adds a vector to the bias."""
        self.params[0].add_(vectors[0])


SoftmaxSystem = LinearSoftmax | BiasSystem


def softmax_systems(classifiers: Sequence[Classifier], iterations: int, by_parameter: bool) -> list[SoftmaxSystem]:
    """Returns the systems; their costs are in gradients of the whole loss.

    Args:
        classifiers: from `SoftmaxHeadRecorder`.
        iterations: the largest number of products with each.
        by_parameter: one system for each weight and for each bias, as if the Hessian were block-diagonal.
    """
    if not by_parameter:
        return [LinearSoftmax(classifiers, iterations)]
    systems: list[SoftmaxSystem] = []
    for classifier in classifiers:
        systems.append(LinearSoftmax([classifier._replace(trains_bias=False)], iterations))
        if classifier.trains_bias and classifier.bias is not None:
            systems.append(BiasSystem(classifier, classifier.bias))
    total = sum(system.multiplications for system in systems if isinstance(system, LinearSoftmax))
    for system in systems:
        fraction = system.multiplications / total
        system.cost *= fraction
        system.cost_of_product *= fraction
        if isinstance(system, BiasSystem):
            system.cost_of_quadratic_form *= fraction
    return systems
