"""Lists of tensors as one vector."""

from collections.abc import Sequence

import torch
from torch import Tensor


def flatten(parts: Sequence[Tensor]) -> Tensor:
    """Returns a copy of all elements, in order, as a tensor of one dimension.

    >>> flatten([torch.tensor([[1.0], [2.0]]), torch.tensor(3.0)])
    tensor([1., 2., 3.])
    """
    return torch.cat([part.reshape(-1) for part in parts])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Returns views of a vector in the shapes of `like`."""
    parts = vector.split_with_sizes([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def inner_product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Returns the inner product of all elements, a scalar in float64.

    >>> inner_product([torch.tensor([1.0, 2.0]), torch.tensor(3.0)], [torch.tensor([4.0, 5.0]), torch.tensor(6.0)])
    tensor(32., dtype=torch.float64)
    """
    return torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]).double().sum()


def inner_products(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[float]:
    """Returns the inner product of each pair of tensors.

    >>> inner_products([torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [torch.tensor([4.0, 5.0]), torch.tensor([6.0])])
    [14.0, 18.0]
    """
    return [float(torch.dot(x.flatten(), y.flatten())) for x, y in zip(a, b, strict=True)]


def in_full_precision(tensor: Tensor) -> Tensor:
    """Returns a tensor in float32 where it is in half precision, else itself."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def per_element(params: Sequence[Tensor], values: Sequence[float | Tensor]) -> Tensor | float:
    """Returns a number for each parameter: as one number where they agree, else one for each element (n,)."""
    if len(set(values)) == 1:
        return values[0]
    return torch.cat([p.new_ones(p.numel()) * value for p, value in zip(params, values, strict=True)])
