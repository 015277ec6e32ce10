"""Numbers of a step: of the host, as `float`, or on the device, as tensors () in float64, which the host does not read.

Both are computed in the same order with the same roundings, and change tensors by the same operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Scalar = float | Tensor


def number(value: Scalar, on_device: bool) -> Scalar:
    """Returns a tensor of one element as a number, which is read if it is one of the host."""
    return value.detach().double() if on_device and isinstance(value, Tensor) else float(value)


def numbers(values: Tensor, on_device: bool) -> Tensor | list[float]:
    """Returns numbers (n,) in float64, or a list of those of the host."""
    return values if on_device else values.tolist()


def total(values: Tensor | list[float], factors: Sequence[Scalar] | None = None) -> Scalar:
    """Returns the sum of `numbers`, each times a factor, added up in their order."""
    if isinstance(values, list):
        return sum(values) if factors is None else sum(f * v for f, v in zip(factors, values, strict=True))
    if factors is not None:
        is_one = len(set(factors)) == 1
        values = values * (factors[0] if is_one else torch.stack([on(values.device, f) for f in factors]))
    return values.cumsum(0)[-1]


def root(value: Scalar) -> Scalar:
    """Returns the square root."""
    return value.sqrt() if isinstance(value, Tensor) else math.sqrt(value)


def quotient(one: Scalar, other: Scalar, otherwise: float) -> Scalar:
    """Returns one number divided by another that is positive; if it is not, a third."""
    if isinstance(other, Tensor):
        return choose(other > 0, one / other, otherwise)
    return one / other if other > 0 else otherwise


def opposite(condition: bool | Tensor) -> bool | Tensor:
    """Returns whether a condition does not hold."""
    return ~condition if isinstance(condition, Tensor) else not condition


def choose(condition: bool | Tensor, one: Scalar, other: Scalar) -> Scalar:
    """Returns one number where a condition holds, else the other."""
    if not isinstance(condition, Tensor):
        return one if condition else other
    return torch.where(condition, on(condition.device, one), on(condition.device, other))


def on(device: torch.device, value: Scalar) -> Tensor:
    """Returns a number on a device."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device)


def smallest(values: Sequence[Scalar]) -> Scalar:
    """Returns the smallest number of some of one kind."""
    return -largest([-value for value in values])


def largest(values: Sequence[Scalar]) -> Scalar:
    """Returns the largest number of some of one kind."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    return torch.stack(tensors).max() if tensors else max(values)


def like(value: Scalar, tensor: Tensor) -> Scalar:
    """Returns a number in the type of a tensor that it multiplies, rounded once as a number of the host is."""
    return value.to(tensor.dtype) if isinstance(value, Tensor) else value


def scaled(tensors: Sequence[Tensor], factor: Scalar) -> list[Tensor]:
    """Returns tensors of one type, of which there is at least one, times a number."""
    return list(torch._foreach_mul(list(tensors), like(factor, tensors[0])))


def scaled_each(tensors: Sequence[Tensor], factors: Sequence[Scalar]) -> list[Tensor]:
    """Returns each tensor times its number."""
    numbers_of_host = [factor for factor in factors if not isinstance(factor, Tensor)]
    if len(numbers_of_host) == len(tensors):
        return list(torch._foreach_mul(list(tensors), numbers_of_host))
    return [tensor * like(factor, tensor) for tensor, factor in zip(tensors, factors, strict=True)]


def scale_each_(tensors: Sequence[Tensor], factors: Sequence[Scalar]) -> None:
    """Multiplies each tensor by its number."""
    numbers_of_host = [factor for factor in factors if not isinstance(factor, Tensor)]
    if len(numbers_of_host) == len(tensors):
        torch._foreach_mul_(list(tensors), numbers_of_host)
        return
    for tensor, factor in zip(tensors, factors, strict=True):
        tensor.mul_(like(factor, tensor))


def add_scaled(x: Tensor, d: Tensor, factor: Scalar, out: Tensor | None = None) -> Tensor:
    """Returns x + factor * d, each element rounded once where the device can; written over `out`, by default x."""
    out = x if out is None else out
    if isinstance(factor, Tensor):
        return torch.addcmul(x, d, factor.to(d.dtype), out=out)
    return torch.add(x, d, alpha=factor, out=out)


def by_group(groups: Sequence[dict[str, Any]], of: Callable[[dict[str, Any]], Scalar]) -> list[Scalar]:
    """Returns a number for each group in a list, computed once for all times that the group is in it."""
    values = {key: of(group) for key, group in {id(group): group for group in groups}.items()}
    return [values[id(group)] for group in groups]


def store(state: dict[str, Any], name: str, value: Tensor) -> None:
    """Copies a tensor into the state, to the memory that it has there: graphs read it."""
    if name in state and state[name].shape == value.shape:
        state[name].copy_(value)
    else:
        state[name] = value.clone()
