"""The systems of equations that a step solves for linear softmax classifiers: one for all, or one a parameter."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..curvature.conjugate_gradient import conjugate_gradient_in_metric
from ..scalars import Scalar
from ..vectors import flatten, inner_products, per_element, unflatten
from .softmax_hessian import LinearSoftmax
from .softmax_recorder import Classifier
from .solution import NOT_FINITE, Solution


class BiasSystem:
    """The Hessian with respect to the bias of a linear softmax classifier, diag(d) - P^T s P, in closed form.

    P (n, C) are the probabilities, s (n, 1) the factor of each row's cross-entropy in the loss, and d is the sum
    of s P over the rows. A product takes 2 n C multiplications.

    Args:
        classifier: from `SoftmaxHeadRecorder`.
        bias: the classifier's.

    Attributes:
        params, trained, gradient, like: one tensor each, the bias and dL/db.
        multiplications: of a gradient of this classifier, for Z and for G^T X.
        cost, cost_of_product, cost_of_quadratic_form: in such gradients.
    """

    def __init__(self, classifier: Classifier, bias: Tensor):
        self.params = self.trained = [bias]
        self.gradient = self.like = [classifier.gradient.sum(0)]
        self._P = classifier.probabilities
        self._scaled = self._P * classifier.scale
        self._diagonal = self._scaled.sum(0)
        n, C = self._P.shape
        self.multiplications = 2 * n * classifier.inputs.shape[1] * C
        self.cost = 0.0
        self.cost_of_product = self.cost_of_quadratic_form = 2 * n * C / self.multiplications

    def matvec_flat(self, vector: Tensor, free_graph: bool = False) -> Tensor:
        """Returns H v."""
        return (self._diagonal * vector).sub_(self._scaled.t() @ (self._P @ vector))

    def quadratic_form_later(self, vectors: Sequence[Tensor], free_graph: bool = False) -> Callable[[], Tensor]:
        """Returns what returns v H v, a scalar."""
        return lambda: vectors[0].dot(self.matvec_flat(vectors[0]))

    def to_parameters(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns a vector by parameter."""
        return {self.params[0]: vectors[0]}

    def add_to_parameters(self, vectors: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Adds a vector times a factor to the bias."""
        self.params[0].add_(vectors[0], alpha=factors[0])


SoftmaxSystem = LinearSoftmax | BiasSystem


def softmax_systems(
    classifiers: Sequence[Classifier], iterations: int, by_parameter: bool, is_one_group: bool
) -> list[SoftmaxSystem]:
    """Returns the systems; their costs are in gradients of the whole loss.

    Args:
        classifiers: from `SoftmaxHeadRecorder`.
        iterations: the largest number of products with each.
        by_parameter: one system for each weight and for each bias, as if the Hessian were block-diagonal.
        is_one_group: whether all parameters have the same options.
    """
    if not by_parameter:
        return [LinearSoftmax(classifiers, iterations, is_one_group)]
    systems: list[SoftmaxSystem] = []
    for classifier in classifiers:
        systems.append(LinearSoftmax([classifier._replace(trains_bias=False)], iterations, is_one_group))
        if classifier.trains_bias and classifier.bias is not None:
            systems.append(BiasSystem(classifier, classifier.bias))
    total = sum(system.multiplications for system in systems if isinstance(system, LinearSoftmax))
    for system in systems:
        fraction = system.multiplications / total
        system.cost *= fraction
        system.cost_of_product *= fraction
        system.cost_of_quadratic_form *= fraction
    return systems


def solve_in_span(
    system: LinearSoftmax, dampings: Sequence[Scalar], options: Mapping[str, Any], threshold: float
) -> Solution:
    """Returns the solution of a system in its coordinates, by several iterations.

    Args:
        system: at the current weights.
        dampings: of each part of the coordinates.
        options: of EHNewton.
        threshold: the least -g.p that is feasible.

    Raises:
        FloatingPointError: the gradient is not finite, or the curvature along it.
    """
    parts = system.gradient
    damping = per_element(parts, dampings)
    scaled_damping = damping / system.unit

    def product(v: Tensor, Mv: Tensor, Av: Tensor) -> Callable[[], None]:
        multiply = system.product(v, Mv, Av)

        def write() -> None:
            multiply()
            if isinstance(scaled_damping, Tensor):
                Av.addcmul_(v, scaled_damping)
            else:
                Av.add_(v, alpha=scaled_damping)

        return write

    limits = options["cg_max_iter"], options["cg_tol"], options["cg_tol_relative"]
    p, Mp, info = conjugate_gradient_in_metric(product, system.metric, flatten(parts).neg_(), *limits, system.unit)
    if info.reason == "not_finite" and info.iterations == 0:
        raise FloatingPointError(NOT_FINITE)
    found, metrics = unflatten(p, parts), unflatten(Mp, parts)
    squares, slope = inner_products(found, metrics), sum(inner_products(parts, metrics))
    is_fallback = not slope <= -threshold
    if is_fallback:
        found, squares = [-g for g in parts], inner_products(parts, system.metrics_of_gradient())
        slope = -sum(squares)
    return Solution.of(found, info)._replace(slope=slope, is_fallback=is_fallback, squares=squares)
