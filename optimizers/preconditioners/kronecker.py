"""Kronecker-factored approximate curvature (K-FAC)."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..curvature.curvature import Curvature
from ..scalars import Scalar, like, root, store
from ..shard import Shard
from .layers import LayerCall

DECAY = 0.9  # of the running means of the factors, at most (Martens and Grosse 2015, section 5: 0.95 in each step)
ENOUGH_ROWS = 2  # that A is the mean of, in units of its order
FIRST_UPDATES = 10  # factors are updated in each of the first steps, then every so many
UPDATE_EVERY = 10
FIRST_INVERSES = (1, 2, 4, 7)  # steps with new inverses, then every so many
INVERT_EVERY = 20
PI = 1e-6, 1e6  # the least and the largest; beyond, inverses would overflow in float32


class Kronecker:
    """M, the Kronecker-factored approximation of the Gauss-Newton matrix, with damping.

    For a linear layer s = W a + b with inputs a, to which a one is appended where b is trained, and the loss's
    derivatives g at s, for targets that are sampled from the model (Martens and Grosse 2015, sections 2 to 6):

        A = mean of a a^T,  G = sum of g g^T                 over the batch, each sample with its factor in the loss
        gamma = sqrt(damping),  pi = sqrt((tr A / dim A) / (tr G / dim G))
        M = (A + pi gamma I) x (G + gamma / pi I)            the layer's block; there are no others
        M^-1 V = (G + gamma / pi I)^-1 V (A + pi gamma I)^-1   for V = [dW db] (out, in + 1)

    In a convolution, a is the patch at a position, and the mean and the sum are over positions too (Grosse and Martens
    2016, section 3; "expand" of Eschenhagen et al. 2023, arXiv 2311.00636, who use it where linear layers are applied
    at several positions). A is the mean over the first samples of the batch where these have rows enough, twice
    the order of A. Factors are running means with the decay min(1 - 1/k, 0.9) at their update k: in each of
    the first ten steps, then every tenth. Inverses are computed at steps 1, 2, 4, 7, and every 20 steps.

    All other parameters, of batch norm, embeddings, and layers that `LayerRecorder` does not record, have a diagonal
    block h + gamma^2, with h the running mean of the squares of the gradient for the same targets, whose expectation is
    the diagonal of the Gauss-Newton matrix (Liu et al. 2023, arXiv 2305.14342, algorithm 2). Batch norm is part of the
    network that g is propagated through, with the statistics of the batch.

    Random numbers are those of a generator that the number of the step is the seed of, so a resumed run draws the same.
    The state holds two matrices of order in + 1 and two of order out for each layer, and h.

    The constructor computes what the batch says of the factors, if it is time for that; sums over processes come with
    that of the gradient, by one reduction. After `update`, M is that of the step.

    Args:
        curvature: of the batch or a part of it; its graph is not freed.
        calls: of layers, by weight, in the pass that the curvature is of.
        state: the optimizer's; `update` changes it.
        linear_calls: of the recorder, at whose outputs the curvature has derivatives.
    """

    def __init__(
        self,
        curvature: Curvature,
        calls: dict[Tensor, list[LayerCall]],
        state: dict[Tensor, dict[str, Any]],
        linear_calls: Sequence[LayerCall] = (),
    ):
        self._params, self._state, self._shard = curvature.params, state, curvature.shard
        self._calls = {p: calls[p] for p in self._params if p in calls}
        is_of_outputs = dict(zip(self._params, curvature.is_of_outputs, strict=True))
        self._at_layers = {
            call.weight: dy
            for call, dy in zip(linear_calls, curvature.at_layers, strict=True)
            if dy is not None and all(is_of_outputs.get(p, False) for p in (call.weight, call.bias) if p is not None)
        }
        self._bias_of: dict[Tensor, Tensor] = {}
        for weight, of_weight in self._calls.items():
            biases = {call.bias for call in of_weight}
            bias = of_weight[0].bias
            if bias is not None and len(biases) == 1 and bias not in set(self._bias_of.values()):
                self._bias_of[weight] = bias
        in_layers = {*self._calls, *self._bias_of.values()}
        self._others = [p for p in self._params if p not in in_layers]
        self._multiplications = 0
        self._step = step = 1 + max((state[p].get("preconditioner_steps", 0) for p in self._params), default=0)
        is_new = any(not self._has_factors(p) for p in (*self._calls, *self._others))
        self._inverts = step in FIRST_INVERSES or step % INVERT_EVERY == 1 or is_new
        self._of_batch = None
        if follows_batch(step) or is_new:
            self._of_batch = batch_factors(curvature, self._calls, self._bias_of, self._others, step)

    def update(self, damping: Sequence[Scalar]) -> None:
        """Updates the factors and their inverses.

        Args:
            damping: of each of the curvature's parameters, > 0.

        Raises:
            FloatingPointError: the factors are not finite, and the state is as it was; or one of them is singular.
        """
        roots = {id(value): root(value) for value in damping}
        self._gamma = {p: roots[id(value)] for p, value in zip(self._params, damping, strict=True)}
        if self._of_batch is not None:
            self._update(self._of_batch())
            self._of_batch = None
        for weight in self._calls:
            if self._inverts:
                self._invert(weight)
        for param in self._params:
            self._state[param]["preconditioner_steps"] = self._step

    @property
    def cost(self) -> float:
        """Of this step, in gradients of the curvature's pass, by counting multiplications."""
        all_calls = [call for calls in self._calls.values() for call in calls]
        gradient = 3 * sum(call.rows(self._shard) * call.weight.numel() for call in all_calls)
        return self._multiplications / max(1, gradient)

    def _has_factors(self, param: Tensor) -> bool:
        """Returns whether the state has the factors of a layer, or the diagonal of another parameter."""
        if param not in self._calls:
            return "sampled_curvature" in self._state[param]
        A = self._state[param].get("input_factor")
        return A is not None and len(A) == self._order(param)

    def _order(self, weight: Tensor) -> int:
        return weight[0].numel() + (weight in self._bias_of)

    def solve(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Returns M^-1 v, of the shapes of the parameters."""
        return self._solve(vectors, {})

    def solve_gradient(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """Returns M^-1 g, with fewer operations where the batch has fewer rows than layers have units.

        With the rows dy and a of a layer, V = dy^T a, and M^-1 V = (dy G^-1)^T (a A^-1).
        """
        return self._solve(gradient, {w: dy for w, dy in self._at_layers.items() if self._is_cheaper_by_rows(w)})

    def _is_cheaper_by_rows(self, weight: Tensor) -> bool:
        rows, n, m = self._calls[weight][0].rows(self._shard), len(weight), self._order(weight)
        return rows * (n * n + m * m + n * m) < n * m * (n + m)

    def _solve(self, vectors: Sequence[Tensor], at_layers: dict[Tensor, Tensor]) -> list[Tensor]:
        """Returns M^-1 v; of layers in `at_layers`, from the derivatives at their outputs."""
        part_of = dict(zip(self._params, vectors, strict=True))
        result = {}
        for weight, calls in self._calls.items():
            bias = self._bias_of.get(weight)
            A, G = (self._state[weight][f"{name}_inverse"] for name in ("input", "output"))
            n, m = len(G), len(A)
            if weight in at_layers:
                x = torch.cat(list(calls[0].input_rows()))
                a = x @ A if bias is None else torch.addmm(A[-1], x, A[:-1])
                V = (calls[0].output_rows(at_layers[weight]) @ G).t() @ a
                self._multiplications += calls[0].rows(self._shard) * (n * n + m * m + n * m)
            else:
                V = part_of[weight].flatten(1)
                if bias is not None:
                    V = torch.cat([V, part_of[bias].unsqueeze(1)], 1)
                V = G @ V @ A
                self._multiplications += n * m * (n + m)
            if bias is not None:
                result[bias] = V[:, -1].contiguous()
                V = V[:, :-1]
            result[weight] = V.reshape(weight.shape)
        for param in self._others:
            h, gamma = self._state[param]["sampled_curvature"], self._gamma[param]
            result[param] = part_of[param] / (h + like(gamma * gamma, h))
        return [result[param] for param in self._params]

    def _update(self, of_batch: dict[Tensor, dict[str, Tensor]]) -> None:
        """Updates the running means of the factors by those of the batch."""
        if not bool(torch.stack([t.isfinite().all() for parts in of_batch.values() for t in parts.values()]).all()):
            raise FloatingPointError("the curvature at the outputs of a layer is not finite")
        calls = [call for of_weight in self._calls.values() for call in of_weight]
        for call in calls:  # one pass back through the layers, and A and G
            weight, order = call.weight, self._order(call.weight)
            rows = call.rows(self._shard)
            self._multiplications += min(rows, ENOUGH_ROWS * order) * order**2
            self._multiplications += rows * (weight.numel() + len(weight) ** 2)
        for param, parts in of_batch.items():
            state = self._state[param]
            state["preconditioner_updates"] = 1 + state.get("preconditioner_updates", 0)
            weight = 1 - min(1 - 1 / state["preconditioner_updates"], DECAY)
            for name, value in parts.items():
                is_first = name not in state or state[name].shape != value.shape
                state[name] = value if is_first else state[name].lerp_(value, weight)

    def _invert(self, weight: Tensor) -> None:
        """Computes the inverses of a layer's factors, in double precision: they may be close to singular."""
        state = self._state[weight]
        A, G = (state[name].to(torch.float64, copy=True) for name in ("input_factor", "output_factor"))
        self._multiplications += len(A) ** 3 + len(G) ** 3
        pi = trace_ratio(A, G)
        for name, factor, shift in (("input", A, pi), ("output", G, 1 / pi)):
            factor.diagonal().add_(shift * self._gamma[weight])
            triangle, failure = torch.linalg.cholesky_ex(factor)
            if int(failure):
                raise FloatingPointError("a factor of K-FAC is singular to working precision; give a larger damping")
            store(state, f"{name}_inverse", torch.cholesky_inverse(triangle).to(weight.dtype))


def follows_batch(step: int) -> bool:
    """Returns whether factors are updated at a step; those with new inverses are such steps."""
    return step <= FIRST_UPDATES or step % UPDATE_EVERY == 1


def trace_ratio(A: Tensor, G: Tensor) -> float:
    """Returns pi = sqrt((tr A / dim A) / (tr G / dim G)), with which both parts of the damping weigh the same.

    It is 1 where a factor is 0, as that of a layer before weights that are 0, and not outside of PI.
    """
    of_inputs, of_outputs = float(A.trace()) / len(A), float(G.trace()) / len(G)
    if of_inputs == 0 or of_outputs == 0:
        return 1.0
    return min(max(math.sqrt(of_inputs / of_outputs), PI[0]), PI[1])


def batch_factors(
    curvature: Curvature,
    calls: dict[Tensor, list[LayerCall]],
    bias_of: dict[Tensor, Tensor],
    others: Sequence[Tensor],
    seed: int,
) -> Callable[[], dict[Tensor, dict[str, Tensor]]]:
    """Returns what returns A and G of each layer, as input_factor and output_factor, and h of other parameters.

    On several processes they come by the reduction of the gradient, where that is still to be made.

    Args:
        curvature: of the batch.
        calls: of layers, by weight.
        bias_of: the biases that belong to weights.
        others: further parameters.
        seed: of the targets that are sampled.
    """
    edges = [call.outputs for of_weight in calls.values() for call in of_weight]
    generator = torch.Generator(curvature.params[0].device).manual_seed(seed)
    sampled = iter(curvature.sample([*edges, *others], generator))
    factors: list[Tensor] = []  # of this process: A times its number of rows, and G, of each layer
    counts = []
    for weight, of_weight in calls.items():
        pairs = [(call, next(sampled)) for call in of_weight]
        outputs = [call.output_rows(dy) for call, dy in pairs if dy is not None]
        A, count = input_products(of_weight, weight in bias_of, curvature.shard)
        factors += [A, sum((g.t() @ g for g in outputs), start=weight.new_zeros(len(weight), len(weight)))]
        counts.append(count)
    derivatives = [torch.zeros_like(p) if (d := next(sampled)) is None else d.detach().to(p.dtype) for p in others]
    number_of_rows = [] if curvature.shard.is_whole else [curvature.params[0].new_tensor(counts)]
    of_layers, of_others, of_rows = (curvature.sums.later(part) for part in (factors, derivatives, number_of_rows))

    def of_batch() -> dict[Tensor, dict[str, Tensor]]:
        totals = [float(n) for total in of_rows() for n in total.tolist()] or counts
        result: dict[Tensor, dict[str, Tensor]] = {}
        for weight, A, G, count in zip(calls, of_layers()[::2], of_layers()[1::2], totals, strict=True):
            result[weight] = {"input_factor": input_factor(A, count, weight in bias_of), "output_factor": G}
        return result | {p: {"sampled_curvature": d.square()} for p, d in zip(others, of_others(), strict=True)}

    return of_batch


def input_products(calls: Sequence[LayerCall], has_bias: bool, shard: Shard) -> tuple[Tensor, int]:
    """Returns the sum of a a^T over samples and positions, and their number.

    With a bias, the sum of a is appended as the last row, for a one that is appended to each a.
    """
    order = calls[0].weight[0].numel()
    A, count = calls[0].weight.new_zeros(order + has_bias, order + has_bias), 0
    most = ENOUGH_ROWS * len(A)
    for rows in (rows for call in calls for rows in call.input_rows(most, shard)):
        A[:order, :order].addmm_(rows.t(), rows)
        if has_bias:
            A[order, :order] += rows.sum(0)
        count += len(rows)
    return A, count


def input_factor(products: Tensor, count: float, has_bias: bool) -> Tensor:
    """Returns A, the mean of a a^T, from sums of `input_products`; they are changed."""
    products /= count
    if has_bias:
        order = len(products) - 1
        products[:order, order] = products[order, :order]
        products[order, order] = 1.0
    return products
