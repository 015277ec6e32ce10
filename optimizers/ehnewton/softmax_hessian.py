"""The curvature of linear softmax classifiers in closed form, in the span of the features of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..compat_torch import softmax_backward
from ..vectors import unflatten
from .softmax_recorder import Classifier


def by_owner(owners: Sequence[Any], *vectors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Returns each owner of `params` with its parts of each vector, which has one for each of these in their order."""
    rows, first = [], 0
    for owner in owners:
        end = first + len(owner.params)
        rows.append((owner, *(vector[first:end] for vector in vectors)))
        first = end
    return rows


class LinearSoftmax:
    """The gradient of a loss, and products with its Hessian, where the weights are those of linear classifiers.

    With X (n, D) the inputs of a classifier, W (C, D) its weights, b its bias, Z = X W^T + b its logits,
    P = softmax(Z), and a loss of cross-entropies with factor `scale`, summed over rows, and decay / 2 * sum W^2:

        G = dL/dZ                                   the gradient is (G^T X + decay W, G^T 1)
        R = X V^T + 1 v^T                           the derivative of Z along (V, v)
        S = scale * P * (R - rowsum(P * R))         the product is (S^T X + decay V, S^T 1)

    All that conjugate gradients reach from 0 is of the form V = A^T X + t W, so that (A, v, t) are coordinates of
    (V, v): G, G^T 1 and `decay` those of the gradient, S + decay A, S^T 1 and decay t those of a product. With
    K = X X^T and Y = X W^T, the inner product of (A, v, t) and (A', v', t') is that of (A, v, t) and

        metric(A', v', t') = (K A' + t' Y, v', <Y, A'> + t' |W|^2)

    and R = K A + t Y + 1 v^T is there once the metric of (A, v, t) is. So an iteration takes a single matrix product of
    n^2 C multiplications instead of 4 n D C, and no gradient of W is ever formed. Without decay, and if W and b share
    damping and rate, A alone is enough: v = A^T 1, and K + 1 takes the place of K. Where the batch is too large for
    this to be less, the coordinates are (V^T, v) themselves, and the metric is 1.

    A Gauss-Newton matrix equals the Hessian here. Several classifiers are independent blocks. Costs are in gradients,
    by counting the multiplications of matrix products: a gradient takes 2 n D C, for Z and for G^T X (the product that
    changes W replaces the latter). Computing K, and the metrics of the gradient and of the solution, is counted once,
    in `cost`.

    Args:
        classifiers: from `SoftmaxHeadRecorder`.
        iterations: the largest number of products; of one, the metric of what is left is not needed.
        is_one_group: whether all parameters have the same options.

    Attributes:
        params: the parameter that each part of the coordinates belongs to.
        trained: the parameters that a step changes.
        gradient: of the loss, in coordinates.
        multiplications: of a gradient.
        cost, cost_of_product, cost_of_quadratic_form: in gradients.
        unit: the scale of the first classifier, if it is a number: a factor that `product` leaves out.
    """

    def __init__(self, classifiers: Sequence[Classifier], iterations: int, is_one_group: bool):
        self._blocks = [_block_of(classifier, iterations, is_one_group) for classifier in classifiers]
        self.params = [p for block in self._blocks for p in block.params]
        self.trained = [p for block in self._blocks for p in (block.W, block.bias) if p is not None]
        self.gradient = [g for block in self._blocks for g in block.gradient]
        scale = classifiers[0].scale
        self.unit = scale if isinstance(scale, float) and scale > 0 else 1.0
        self.multiplications = sum(block.of_gradient for block in self._blocks)
        self.cost = sum(block.of_metric for block in self._blocks) / self.multiplications
        self.cost_of_product = sum(block.of_product for block in self._blocks) / self.multiplications
        self.cost_of_quadratic_form = self.cost_of_product  # as they are counted for one iteration

    def metric(self, vector: Tensor, result: Tensor) -> Callable[[], None]:
        """Returns what writes the metric of coordinates, both of one dimension, whenever these have changed."""
        by_block = by_owner(self._blocks, unflatten(vector, self.gradient), unflatten(result, self.gradient))

        def write() -> None:
            for block, parts, metrics in by_block:
                block.write_metric(parts, metrics)

        return write

    def product(self, vector: Tensor, metric: Tensor, result: Tensor) -> Callable[[], None]:
        """Returns what writes the coordinates of H v / unit whenever v has changed.

        Args:
            vector: the coordinates of v, of one dimension.
            metric: of them.
            result: where they are written.
        """
        by_block = by_owner(self._blocks, *(unflatten(v, self.gradient) for v in (vector, metric, result)))

        def write() -> None:
            for block, parts, metrics, results in by_block:
                block.write_product(self.unit, parts, metrics, results)

        return write

    def metrics_of_gradient(self) -> list[Tensor]:
        """Returns the metric of the gradient, in parts."""
        result = [torch.empty_like(g) for g in self.gradient]
        for block, parts, metrics in by_owner(self._blocks, self.gradient, result):
            block.write_metric(parts, metrics)
        return result

    def quadratic_form(self, vectors: Sequence[Tensor], metrics: Sequence[Tensor]) -> float:
        """Returns v H v.

        Args:
            vectors: the coordinates of v, in parts.
            metrics: of them.
        """
        return sum(block.quadratic_form(*parts) for block, *parts in by_owner(self._blocks, vectors, metrics))

    def to_parameters(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns vectors in coordinates as vectors by parameter."""
        return {p: v for block, parts in by_owner(self._blocks, vectors) for p, v in block.to_parameters(parts).items()}

    def add_to_parameters(self, vectors: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Adds vectors in coordinates to the parameters, each part times its factor (all of a weight: the same)."""
        for block, parts, of_parts in by_owner(self._blocks, vectors, factors):
            block.add_to_parameters(parts, of_parts)


class _Block(ABC):
    """One classifier. Its coordinates lie one after another: a matrix (m, C); v (C,) of a bias; further ones.

    Args:
        classifier: from `SoftmaxHeadRecorder`.
        matrix: the first coordinates of the gradient.
        has_v: whether v is among the coordinates of a trained bias.

    Attributes:
        params: the parameter that each part belongs to.
        gradient: in coordinates.
        of_gradient, of_metric, of_product: multiplications, by which the system counts its costs.
    """

    of_metric = of_product = 0.0

    def __init__(self, classifier: Classifier, matrix: Tensor, has_v: bool = True):
        self.X, self.W, self.decay = classifier.inputs, classifier.weight, classifier.decay
        self.P, self.scale = classifier.probabilities, classifier.scale
        self.bias = classifier.bias if classifier.trains_bias else None
        self.of_gradient = 2 * self.X.numel() * len(self.W)
        self.params, self.gradient = [self.W], [matrix]
        self.has_v = has_v and self.bias is not None
        if self.has_v and self.bias is not None:
            self.one = matrix.new_ones(len(self.X))
            self.params.append(self.bias)
            self.gradient.append(classifier.gradient.sum(0))

    @abstractmethod
    def write_metric(self, parts: Sequence[Tensor], metrics: Sequence[Tensor]) -> None:
        """Writes the metric of coordinates."""

    @abstractmethod
    def write_product(
        self, unit: float, parts: Sequence[Tensor], metrics: Sequence[Tensor], result: Sequence[Tensor]
    ) -> None:
        """Writes H v / unit."""

    @abstractmethod
    def tangent(self, parts: Sequence[Tensor], metrics: Sequence[Tensor], out: Tensor) -> Tensor:
        """Returns R, in `out` unless it is there already."""

    @abstractmethod
    def change_of_weights(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns V."""

    @abstractmethod
    def add_to_weights(self, parts: Sequence[Tensor], factor: float) -> None:
        """Adds V times a factor to W, without forming V."""

    def change_of_bias(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns v of a trained bias."""
        return parts[1] if self.has_v else parts[0].sum(0)

    def loss_tangent(self, R: Tensor, out: Tensor, unit: float) -> Tensor:
        """Returns S / unit, written to `out`, which may be R."""
        S = softmax_backward(R, self.P, out=out)
        return S.mul_(self.scale / unit) if isinstance(self.scale, Tensor) or self.scale != unit else S

    def quadratic_form(self, parts: Sequence[Tensor], metrics: Sequence[Tensor]) -> float:
        """Returns v H v = sum S * R + decay |V|^2."""
        R = self.tangent(parts, metrics, torch.empty_like(self.P))
        unit = 1.0 if isinstance(self.scale, Tensor) else self.scale
        value = unit * float(R.view(-1).dot(self.loss_tangent(R, torch.empty_like(R), unit).view(-1)))
        if self.decay:
            all_parts = zip(self.params, parts, metrics, strict=True)
            value += self.decay * sum(float((v * m).sum()) for p, v, m in all_parts if p is self.W)
        return value

    def to_parameters(self, parts: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns V and v."""
        V = self.change_of_weights(parts)
        return {self.W: V} if self.bias is None else {self.W: V, self.bias: self.change_of_bias(parts)}

    def add_to_parameters(self, parts: Sequence[Tensor], factors: Sequence[float]) -> None:
        """Adds V and v, times the factors of their parts, to W and b, without forming V."""
        self.add_to_weights(parts, factors[0])
        if self.bias is not None:
            self.bias.add_(self.change_of_bias(parts), alpha=factors[int(self.has_v)])


class _InSpan(_Block):
    """Coordinates A (n, C), v where A does not give it, and t (1,) where there is decay."""

    def __init__(self, classifier: Classifier, K: Tensor, is_one_group: bool):
        super().__init__(classifier, classifier.gradient, has_v=bool(classifier.decay) or not is_one_group)
        self.K = K.add_(1) if self.bias is not None and not self.has_v else K
        if self.decay:
            self.Y = classifier.logits if classifier.bias is None else classifier.logits - classifier.bias
            self.squares = classifier.squares
            self.params.append(self.W)
            self.gradient.append(self.W.new_full((1,), self.decay))

    def write_metric(self, parts: Sequence[Tensor], metrics: Sequence[Tensor]) -> None:
        """Writes (K A + t Y, v, <Y, A> + t |W|^2)."""
        A, KA = parts[0], metrics[0]
        torch.mm(self.K, A, out=KA)
        if self.has_v:
            metrics[1].copy_(parts[1])
        if self.decay:
            torch.add(self.Y.view(-1).dot(A.view(-1)), parts[-1], alpha=self.squares, out=metrics[-1])
            KA.addcmul_(self.Y, parts[-1])

    def write_product(
        self, unit: float, parts: Sequence[Tensor], metrics: Sequence[Tensor], result: Sequence[Tensor]
    ) -> None:
        """Writes (S + decay A, S^T 1, decay t) / unit."""
        S = self.loss_tangent(self.tangent(parts, metrics, result[0]), result[0], unit)
        if self.has_v:
            torch.mv(S.t(), self.one, out=result[1])
        if self.decay:
            S.add_(parts[0], alpha=self.decay / unit)
            torch.mul(parts[-1], self.decay / unit, out=result[-1])

    def tangent(self, parts: Sequence[Tensor], metrics: Sequence[Tensor], out: Tensor) -> Tensor:
        """Returns R = K A + t Y + 1 v^T."""
        return torch.add(metrics[0], parts[1], out=out) if self.has_v else metrics[0]

    def change_of_weights(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns V = A^T X + t W."""
        V = parts[0].t() @ self.X
        return V.addcmul_(self.W, parts[-1]) if self.decay else V

    def add_to_weights(self, parts: Sequence[Tensor], factor: float) -> None:
        """Adds V times a factor to W, without forming V."""
        if self.decay:
            self.W.addcmul_(self.W, parts[-1], value=factor)
        self.W.addmm_(parts[0].t(), self.X, alpha=factor)


class _OfWeights(_Block):
    """Coordinates V^T (D, C) and v, whose metric is 1."""

    def __init__(self, classifier: Classifier):
        gradient = classifier.inputs.t() @ classifier.gradient
        if classifier.decay:
            gradient.add_(classifier.weight.t(), alpha=classifier.decay)
        super().__init__(classifier, gradient)
        self.R = torch.empty_like(self.P)

    def write_metric(self, parts: Sequence[Tensor], metrics: Sequence[Tensor]) -> None:
        """Copies the coordinates."""
        for part, metric in zip(parts, metrics, strict=True):
            metric.copy_(part)

    def write_product(
        self, unit: float, parts: Sequence[Tensor], metrics: Sequence[Tensor], result: Sequence[Tensor]
    ) -> None:
        """Writes (X^T S + decay V^T, S^T 1) / unit."""
        S = self.loss_tangent(self.tangent(parts, metrics, self.R), self.R, unit)
        torch.mm(self.X.t(), S, out=result[0])
        if self.has_v:
            torch.mv(S.t(), self.one, out=result[1])
        if self.decay:
            result[0].add_(parts[0], alpha=self.decay / unit)

    def tangent(self, parts: Sequence[Tensor], metrics: Sequence[Tensor], out: Tensor) -> Tensor:
        """Returns R = X V^T + 1 v^T."""
        R = torch.mm(self.X, parts[0], out=out)
        return R.add_(parts[1]) if self.has_v else R

    def change_of_weights(self, parts: Sequence[Tensor]) -> Tensor:
        """Returns V."""
        return parts[0].t()

    def add_to_weights(self, parts: Sequence[Tensor], factor: float) -> None:
        """Adds V times a factor to W."""
        self.W.add_(parts[0].t(), alpha=factor)


def _block_of(classifier: Classifier, iterations: int, is_one_group: bool) -> _Block:
    """Returns the coordinates that take fewer multiplications; of rows that are nearly dependent, those of weights.

    K has the square of the rows' condition, and rounding would end what they leave of it.
    """
    X = classifier.inputs
    (n, D), C = X.shape, len(classifier.weight)
    # of one iteration, a quadratic form is needed, and no metric but that of the gradient; of more, also the solution's
    of_metric = float(n * n * (D + (2 * C if iterations > 1 else C)))
    of_product = float(n * n * C if iterations > 1 else 0)
    of_product_of_weights = float(2 * n * D * C if iterations > 1 else n * D * C)
    if of_metric + iterations * of_product < iterations * of_product_of_weights:
        K = X @ X.t()
        if iterations <= 1 or _is_regular(K):
            block: _Block = _InSpan(classifier, K, is_one_group)
            block.of_metric, block.of_product = of_metric, of_product
            return block
    block = _OfWeights(classifier)
    block.of_product = of_product_of_weights
    return block


def _is_regular(K: Tensor) -> bool:
    """Returns whether a positive semidefinite matrix has its full rank beyond rounding errors."""
    L, failed = torch.linalg.cholesky_ex(K)
    least = len(K) * torch.finfo(K.dtype).eps * K.diagonal().max()
    return bool((failed == 0) & (L.diagonal().square().min() > least))
