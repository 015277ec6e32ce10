"""Products with the Hessian of a loss, by differentiating its gradient."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..arguments import check_shapes
from .loss import second_derivative


def hessian_vector_product(
    loss: Tensor, params: Iterable[Tensor], vectors: Iterable[Tensor], retain_graph: bool = True
) -> list[Tensor]:
    """Returns H v, with H the second derivatives of a loss with respect to params (Pearlmutter 1994, exact).

    The gradient is differentiated along v (Zorca 2020, eq. 2.15). No `.grad` is touched.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> hessian_vector_product((x**3).sum(), [x], [torch.tensor([1.0, 1.0])])
    [tensor([ 6., 12.])]

    Args:
        loss: a scalar with its graph; computed inside `FastDoubleBackward()` the product is faster.
        params: tensors that require gradients; where the loss does not depend on one, its part is 0.
        vectors: v, of the shapes of params.
        retain_graph: keep the graph of the loss, for another product.

    Raises:
        ValueError: vectors have other shapes, or what the loss was computed by has no second derivative.
    """
    params, vectors = list(params), list(vectors)
    check_shapes("vectors", vectors, params)
    gradients = [edge_of(g) for g in grad(loss, params, create_graph=True, allow_unused=True)]
    product = differentiate(gradients, params, vectors, retain_graph)
    return [sum_of(p, part) for p, part in zip(params, product, strict=True)]


def differentiate(
    gradients: Sequence[GradientEdge | None],
    inputs: Sequence[Tensor],
    vectors: Sequence[Tensor | None],
    retain_graph: bool,
) -> Sequence[Tensor | None]:
    """Returns the derivatives of <gradients, vectors> with respect to inputs; None is 0."""
    pairs = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and v is not None]
    if not pairs:
        return [None] * len(inputs)
    outputs, weights = zip(*pairs, strict=True)
    with second_derivative():
        return grad(outputs, inputs, weights, retain_graph=retain_graph, allow_unused=True)


def edge_of(tensor: Tensor | None) -> GradientEdge | None:
    """Returns a tensor's place in the graph, which does not keep its values; None where it has none."""
    return get_gradient_edge(tensor) if tensor is not None and tensor.requires_grad else None


def sum_of(param: Tensor, *parts: Tensor | None) -> Tensor:
    """Returns the sum of the parts that are not None, detached; zeros like the parameter where all are."""
    terms = [part.detach() for part in parts if part is not None]
    if not terms:
        return torch.zeros_like(param)
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]
