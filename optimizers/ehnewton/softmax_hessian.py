"""The curvature of linear softmax classifiers in closed form, in the span of the features of a batch."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..vectors import flatten
from .softmax_recorder import Classifier

aten = torch.ops.aten


class LinearSoftmax:
    """The gradient of a loss, and products with its Hessian, where the weights are those of linear classifiers.

    With X (n, D) the inputs of a classifier, W (C, D) its weights, b its bias, Z = X W^T + b its logits,
    P = softmax(Z), and a loss of cross-entropies with factor `scale`, summed over rows, and decay / 2 * sum W^2:

        G = dL/dZ                                   the gradient is (G^T X + decay W, G^T 1)
        R = X V^T + 1 v^T                           along (V, v)
        S = scale * P * (R - rowsum(P * R))         the product is (S^T X + decay V, S^T 1)

    All that conjugate gradients reach from 0 is of the form V = U Q + u N: the rows of Q (n, D) are an
    orthonormal basis of those of X = L Q, and N is the part of W that is orthogonal to them, W - W Q^T Q, scaled
    to length 1. So (U, u, v) are coordinates in which inner products, norms and damping are what they are for
    (V, v), and the formulas stand with L in the place of X: a product takes 2 n^2 C multiplications instead of
    2 n D C, and no gradient of W is ever formed. Where the batch is too large for that to be less, L = X, Q = 1.

    A Gauss-Newton matrix equals the Hessian here. Several classifiers with parameters of their own stand beside
    one another. Costs are in gradients, by counting the multiplications of matrix products: a gradient is 2 n D C,
    for Z and for G^T X (in the place of which comes the product that changes W). Finding L and Q, and the ways
    between V and U, come once, in `cost`.

    Args:
        classifiers: as `Recorder` finds them.
        iterations: how many products are to come at most; 1 is one `along`.

    Attributes:
        params: whose weights each part of the coordinates is of.
        gradient: of the loss, in coordinates.
        like: the same, for their shapes.
        whole: multiplications of a gradient.
        cost, cost_of_product, cost_of_along: in gradients.
    """

    def __init__(self, classifiers: Sequence[Classifier], iterations: int):
        self._parts = [_Part(classifier, iterations) for classifier in classifiers]
        self.params = [p for part in self._parts for p in part.params]
        self.gradient = self.like = [g for part in self._parts for g in part.gradient]
        self._sizes = [sum(g.numel() for g in part.gradient) for part in self._parts]
        self._product = self.gradient[0].new_empty(sum(self._sizes))
        self._products = self._product.split(self._sizes)
        self.whole = sum(part.whole for part in self._parts)
        self.cost = sum(part.once for part in self._parts) / self.whole
        self.cost_of_product = sum(part.each for part in self._parts) / self.whole
        self.cost_of_along = self.cost_of_product / 2

    def times(self, vector: Tensor, last: bool = False) -> Tensor:
        """Returns H v, in memory that the next product takes again."""
        for part, own, result in zip(self._parts, vector.split(self._sizes), self._products, strict=True):
            part.multiply(own, result)
        return self._product

    def along(self, vectors: Sequence[Tensor], last: bool = False) -> Tensor:
        """Returns v H v, a scalar."""
        own = flatten(vectors).split(self._sizes)
        return torch.stack([part.along(v) for part, v in zip(self._parts, own, strict=True)]).sum()

    def changes(self, vectors: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns by parameter what vectors in coordinates are for it."""
        return {p: v for part, own in self._apart(vectors) for p, v in part.changes(own).items()}

    def add(self, vectors: Sequence[Tensor]) -> None:
        """Adds vectors in coordinates to the parameters."""
        for part, own in self._apart(vectors):
            part.add(own)

    def _apart(self, vectors: Sequence[Tensor]) -> list[tuple["_Part", Sequence[Tensor]]]:
        """Returns each classifier with its part of vectors."""
        found, first = [], 0
        for part in self._parts:
            found.append((part, vectors[first : first + len(part.params)]))
            first += len(part.params)
        return found


class _Basis(NamedTuple):
    """X = L Q with Q = `rows`, or L^-1 `rows` where `inverts`; None is 1. `cost` in multiplications."""

    L: Tensor
    rows: Tensor | None
    inverts: bool
    cost: float


def _basis(X: Tensor) -> _Basis:
    """Returns L by Cholesky's decomposition of X X^T, or where rows are as good as dependent, by QR of X^T."""
    n, D = X.shape
    K = X @ X.t()
    L, failed = torch.linalg.cholesky_ex(K)
    cost = n * n * (D + n / 3)
    least = n * torch.finfo(X.dtype).eps * K.diagonal().max()
    if bool((failed == 0) & (L.diagonal().square().min() > least)):
        return _Basis(L, X, True, cost)
    Q, R = torch.linalg.qr(X.t())
    return _Basis(R.t(), Q.t(), False, cost + 2 * n * n * D)


class _Part:
    """One classifier. Its coordinates: U^T (m, C); v (C,) of a bias; u (1,), where there is decay and Q is not 1.

    U^T and v lie side by side, a matrix that [L, 1] multiplies.
    """

    def __init__(self, classifier: Classifier, iterations: int):
        X, self.W, G, self.decay = classifier.inputs, classifier.weight, classifier.gradient, classifier.decay
        (n, D), C = X.shape, len(self.W)
        products = iterations if iterations > 1 else 1 / 2
        ways = n * n * C * (3 if self.decay else 2)  # between V and U
        self.whole = self.each = 2 * n * D * C
        self.once, self.basis = 0.0, _Basis(X, None, False, 0.0)
        if n < D and n * n * (D + n / 3 + 2 * C * products) + ways < self.each * products:
            self.basis = _basis(X)
            self.once, self.each = self.basis.cost + ways, 2 * n * n * C
        self.P, self.scale = torch.softmax(classifier.logits, 1), classifier.scale
        self.R = torch.empty_like(self.P)
        L, m = self.basis.L, self.basis.L.shape[1]
        self.bias = classifier.bias if classifier.trains_bias else None
        self.L = L if self.bias is None else torch.cat([L, L.new_ones(n, 1)], 1)
        self.weighted = (self.L * self.scale).t()  # what multiplies S, which is without the scale
        self.of_weights, self.of_both = m * C, self.L.shape[1] * C
        found = self.L.t() @ G
        self.params, self.gradient = [self.W], [found[:m]]
        if self.bias is not None:
            self.params.append(self.bias)
            self.gradient.append(found[m])
        if self.decay:
            self._add_decay(classifier)

    def _add_decay(self, classifier: Classifier) -> None:
        """Adds the coordinates of decay * W to the gradient."""
        L, rows, inverts, _ = self.basis
        if rows is None:
            self.of_W = self.W.t()
        elif inverts:
            scores = classifier.logits if classifier.bias is None else classifier.logits - classifier.bias
            self.of_W = torch.linalg.solve_triangular(L, scores, upper=False)
        else:
            self.of_W = rows @ self.W.t()
        self.gradient[0].add_(self.of_W, alpha=self.decay)
        if rows is not None:
            # the length of the part of W that is orthogonal to Q
            self.across = max(classifier.squares - float(self.of_W.square().sum()), 0.0) ** 0.5
            self.params.append(self.W)
            self.gradient.append(self.W.new_full((1,), self.decay * self.across))

    def _tangents(self, own: Tensor) -> Tensor:
        """Returns R."""
        return torch.mm(self.L, own[: self.of_both].view(-1, self.P.shape[1]), out=self.R)

    def _differentiated(self, R: Tensor) -> Tensor:
        """Returns S, without the scale, in the memory of R."""
        return aten._softmax_backward_data.out(R, self.P, 1, R.dtype, grad_input=R)

    def multiply(self, own: Tensor, result: Tensor) -> None:
        """Writes H v, all in one dimension."""
        S = self._differentiated(self._tangents(own))
        torch.mm(self.weighted, S, out=result[: self.of_both].view(-1, self.P.shape[1]))
        if self.decay:
            result[: self.of_weights].add_(own[: self.of_weights], alpha=self.decay)
            torch.mul(own[self.of_both :], self.decay, out=result[self.of_both :])

    def along(self, own: Tensor) -> Tensor:
        """Returns v H v, of v in one dimension."""
        R = self._tangents(own)
        S = self._differentiated(R.clone()).mul_(self.scale)
        total = R.view(-1).dot(S.view(-1))
        if self.decay:
            for part in (own[: self.of_weights], own[self.of_both :]):
                total = total + self.decay * part.dot(part)
        return total

    def _split(self, own: Sequence[Tensor]) -> tuple[Tensor, float]:
        """Returns A and t of V = A^T rows + t W."""
        A, t = own[0], 0.0
        if self.decay and self.basis.rows is not None and self.across > 0:
            t = float(own[-1]) / self.across
            A = A.sub(self.of_W, alpha=t)
        return torch.linalg.solve_triangular(self.basis.L.t(), A, upper=True) if self.basis.inverts else A, t

    def changes(self, own: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """Returns V and v."""
        A, t = self._split(own)
        V = A.t() if self.basis.rows is None else A.t() @ self.basis.rows
        found = {self.W: V.add_(self.W, alpha=t) if t else V}
        if self.bias is not None:
            found[self.bias] = own[1]
        return found

    def add(self, own: Sequence[Tensor]) -> None:
        """Adds V and v to W and b, without forming V."""
        A, t = self._split(own)
        if t:
            self.W.add_(self.W, alpha=t)
        if self.basis.rows is None:
            self.W.add_(A.t())
        else:
            self.W.addmm_(A.t(), self.basis.rows)
        if self.bias is not None:
            self.bias.add_(own[1])
