"""The table of signatures against torch's own."""

import inspect

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import get_testing_overrides

from helpers.references import numbers
from trainopt.optimizers.functional_signatures import SIGNATURES, UnaryArguments

OVERRIDES = get_testing_overrides()  # a function with the same arguments for each that a mode can intercept


def parameters(function):
    """Names and defaults, in order."""
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("function", [f for f, kind in SIGNATURES.items() if kind is not UnaryArguments])
def test_arguments_and_defaults_are_those_of_torch(function):
    assert parameters(SIGNATURES[function]) == parameters(OVERRIDES[function])


@pytest.mark.parametrize("function", [f for f, kind in SIGNATURES.items() if kind is UnaryArguments])
def test_functions_of_one_tensor_take_one(function):
    x = numbers(5)
    assert torch.equal(function(*SIGNATURES[function](x.clone())), x.clamp(min=0))


def test_arguments_by_name_make_the_same_call():
    call = SIGNATURES[F.conv2d](numbers(2, 4, 5, 5), weight=numbers(4, 2, 3, 3), groups=2, padding="same")
    assert (call.bias, call.stride, call.padding, call.groups) == (None, 1, "same", 2)
    assert torch.equal(F.conv2d(*call), F.conv2d(call.input, call.weight, padding="same", groups=2))
