"""The curvature of linear softmax classifiers in closed form, in the span of the features of a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..compat_torch import softmax_backward_
from ..vectors import flatten
from .softmax_recorder import Classifier


class LinearSoftmax:
    """The gradient of a loss, and products with its Hessian, where the weights are those of linear classifiers.

    With X (n, D) the inputs of a classifier, W (C, D) its weights, b its bias, Z = X W^T + b its logits,
    P = softmax(Z), and a loss of cross-entropies with factor `scale`, summed over rows, and decay / 2 * sum W^2:

        G = dL/dZ                                   the gradient is (G^T X + decay W, G^T 1)
        R = X V^T + 1 v^T                           the derivative of Z along (V, v)
        S = scale * P * (R - rowsum(P * R))         the product is (S^T X + decay V, S^T 1)

    All that conjugate gradients reach from 0 is of the form V = U Q + u N: the rows of Q (n, D) are an
    orthonormal basis of those of X = L Q, and N is the part of W that is orthogonal to them, W - W Q^T Q, scaled
    to length 1. So (U, u, v) are coordinates in which inner products, norms and damping are the same as for
    (V, v), and the formulas hold with L in place of X: a product takes 2 n^2 C multiplications instead of
    2 n D C, and no gradient of W is ever formed. Where the batch is too large for that to be less, L = X, Q = 1.

    A Gauss-Newton matrix equals the Hessian here. Several classifiers are independent blocks. Costs are in gradients,
    by counting the multiplications of matrix products: a gradient takes 2 n D C, for Z and for G^T X (the product that
    changes W replaces the latter). Computing L and Q, and converting between V and U, is counted once, in `cost`.

    Args:
        classifiers: from `SoftmaxHeadRecorder`.
        iterations: the largest number of products; 1 stands for one `quadratic_form`.

    Attributes:
        params: the parameter that each part of the coordinates belongs to.
        gradient: of the loss, in coordinates.
        like: tensors of the shapes of coordinates.
        multiplications: of a gradient.
        cost, cost_of_product, cost_of_quadratic_form: in gradients.
    """

    def __init__(self, classifiers: Sequence[Classifier], iterations: int):
        self._blocks = [_Block(classifier, iterations) for classifier in classifiers]
        self.params = [p for block in self._blocks for p in block.params]
        self.gradient = self.like = [g for block in self._blocks for g in block.gradient]
        self._sizes = [sum(g.numel() for g in block.gradient) for block in self._blocks]
        self._product = self.gradient[0].new_empty(sum(self._sizes))
        self._products = self._product.split(self._sizes)
        self.multiplications = sum(block.of_gradient for block in self._blocks)
        self.cost = sum(block.of_basis for block in self._blocks) / self.multiplications
        self.cost_of_product = sum(block.of_product for block in self._blocks) / self.multiplications
        self.cost_of_quadratic_form = self.cost_of_product / 2

    def matvec_flat(self, vector: Tensor, free_graph: bool = False) -> Tensor:
        """Returns H v, in memory that the next product overwrites."""
        for block, part, result in zip(self._blocks, vector.split(self._sizes), self._products, strict=True):
            block.matvec(part, result)
        return self._product

    def quadratic_form(self, vectors: Sequence[Tensor], free_graph: bool = False) -> Tensor:
        """Returns v H v, a scalar."""
        parts = flatten(vectors).split(self._sizes)
        return torch.stack([block.quadratic_form(v) for block, v in zip(self._blocks, parts, strict=True)]).sum()

    def to_parameters(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns vectors in coordinates as vectors by parameter."""
        return {p: v for block, parts in self._by_block(vectors) for p, v in block.to_parameters(parts).items()}

    def add_to_parameters(self, vectors: Sequence[Tensor]) -> None:
        """Adds vectors in coordinates to the parameters."""
        for block, parts in self._by_block(vectors):
            block.add_to_parameters(parts)

    def _by_block(self, vectors: Sequence[Tensor]) -> list[tuple["_Block", Sequence[Tensor]]]:
        """Returns each classifier with its part of vectors."""
        pairs, first = [], 0
        for block in self._blocks:
            pairs.append((block, vectors[first : first + len(block.params)]))
            first += len(block.params)
        return pairs


class _Basis(NamedTuple):
    """X = L Q with Q = `rows`, or Q = `inverse` `rows` with L's inverse; None is 1. `cost` in multiplications."""

    L: Tensor
    rows: Tensor | None
    inverse: Tensor | None
    cost: float


def _basis(X: Tensor) -> _Basis:
    """Returns L from Cholesky's decomposition of X X^T, or where rows are nearly dependent, from QR of X^T."""
    n, D = X.shape
    K = X @ X.t()
    L, failed = torch.linalg.cholesky_ex(K)
    cost = n * n * (D + 2 * n / 3)
    least = n * torch.finfo(X.dtype).eps * K.diagonal().max()
    if bool((failed == 0) & (L.diagonal().square().min() > least)):
        one = torch.eye(n, dtype=X.dtype, device=X.device)
        return _Basis(L, X, torch.linalg.solve_triangular(L, one, upper=False), cost)  # its products are faster
    Q, R = torch.linalg.qr(X.t())
    return _Basis(R.t(), Q.t(), None, cost + 2 * n * n * D)


class _Block:
    """One classifier. Its coordinates: U^T (m, C); v (C,) of a bias; u (1,), where there is decay and Q is not 1.

    U^T and v lie side by side, a matrix that [L, 1] multiplies.
    """

    def __init__(self, classifier: Classifier, iterations: int):
        X, self.W, G, self.decay = classifier.inputs, classifier.weight, classifier.gradient, classifier.decay
        (n, D), C = X.shape, len(self.W)
        products = iterations if iterations > 1 else 1 / 2
        conversions = n * n * C * (3 if self.decay else 2)  # between V and U
        self.of_gradient = self.of_product = 2 * n * D * C  # multiplications
        self.of_basis, self.basis = 0.0, _Basis(X, None, None, 0.0)
        if n < D and n * n * (D + 2 * n / 3 + 2 * C * products) + conversions < self.of_product * products:
            self.basis = _basis(X)
            self.of_basis, self.of_product = self.basis.cost + conversions, 2 * n * n * C
        self.P, self.scale = torch.softmax(classifier.logits, 1), classifier.scale
        self.R = torch.empty_like(self.P)
        L, m = self.basis.L, self.basis.L.shape[1]
        self.bias = classifier.bias if classifier.trains_bias else None
        # L^T in memory, as matrix products with rows of n numbers are faster than with rows of n + 1
        columns = L.t().contiguous() if self.bias is None else torch.cat([L.t(), L.new_ones(1, n)])
        self.L = columns.t()
        # multiplies S, which is without the scale
        self.weighted = columns * (self.scale.t() if isinstance(self.scale, Tensor) else self.scale)
        self.size_of_weights, self.size_of_both = m * C, len(columns) * C
        gradient = columns @ G
        self.params, self.gradient = [self.W], [gradient[:m]]
        if self.bias is not None:
            self.params.append(self.bias)
            self.gradient.append(gradient[m])
        if self.decay:
            self._add_decay(classifier)

    def _add_decay(self, classifier: Classifier) -> None:
        """Adds the coordinates of decay * W to the gradient."""
        _, rows, inverse, _ = self.basis
        if rows is None:
            self.W_in_basis = self.W.t()
        elif inverse is not None:
            scores = classifier.logits if classifier.bias is None else classifier.logits - classifier.bias
            self.W_in_basis = inverse @ scores
        else:
            self.W_in_basis = rows @ self.W.t()
        self.gradient[0].add_(self.W_in_basis, alpha=self.decay)
        if rows is not None:
            # the length of the part of W that is orthogonal to Q
            self.orthogonal = max(classifier.squares - float(self.W_in_basis.square().sum()), 0.0) ** 0.5
            self.params.append(self.W)
            self.gradient.append(self.W.new_full((1,), self.decay * self.orthogonal))

    def _logit_tangents(self, vector: Tensor) -> Tensor:
        """Returns R."""
        return torch.mm(self.L, vector[: self.size_of_both].view(-1, self.P.shape[1]), out=self.R)

    def matvec(self, vector: Tensor, result: Tensor) -> None:
        """Writes H v, both of one dimension."""
        S = softmax_backward_(self._logit_tangents(vector), self.P)  # without the scale
        torch.mm(self.weighted, S, out=result[: self.size_of_both].view(-1, self.P.shape[1]))
        if self.decay:
            result[: self.size_of_weights].add_(vector[: self.size_of_weights], alpha=self.decay)
            torch.mul(vector[self.size_of_both :], self.decay, out=result[self.size_of_both :])

    def quadratic_form(self, vector: Tensor) -> Tensor:
        """Returns v H v for v of one dimension."""
        R = self._logit_tangents(vector)
        S = softmax_backward_(R.clone(), self.P).mul_(self.scale)
        total = R.view(-1).dot(S.view(-1))
        if self.decay:
            for part in (vector[: self.size_of_weights], vector[self.size_of_both :]):
                total = total + self.decay * part.dot(part)
        return total

    def _split(self, vectors: Sequence[Tensor]) -> tuple[Tensor, float]:
        """Returns A and t of V = A^T rows + t W."""
        A, t = vectors[0], 0.0
        if self.decay and self.basis.rows is not None and self.orthogonal > 0:
            t = float(vectors[-1]) / self.orthogonal
            A = A.sub(self.W_in_basis, alpha=t)
        return A if self.basis.inverse is None else self.basis.inverse.t() @ A, t

    def to_parameters(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns V and v."""
        A, t = self._split(vectors)
        V = A.t() if self.basis.rows is None else A.t() @ self.basis.rows
        by_parameter = {self.W: V.add_(self.W, alpha=t) if t else V}
        if self.bias is not None:
            by_parameter[self.bias] = vectors[1]
        return by_parameter

    def add_to_parameters(self, vectors: Sequence[Tensor]) -> None:
        """Adds V and v to W and b, without forming V."""
        A, t = self._split(vectors)
        if t:
            self.W.add_(self.W, alpha=t)
        if self.basis.rows is None:
            self.W.add_(A.t())
        else:
            self.W.addmm_(A.t(), self.basis.rows)
        if self.bias is not None:
            self.bias.add_(vectors[1])
