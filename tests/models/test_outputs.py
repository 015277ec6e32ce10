"""Networks whose outputs cannot be trained: each is refused with what is wrong."""

import pytest
import torch
from torch import nn

from helpers.cli import refusal
from trainopt.models import output_failure


class Returning(nn.Module):
    """A linear network of two features, whose ten outputs a function changes."""

    def __init__(self, change, layer=None):
        super().__init__()
        self.layer, self.change = layer or nn.Linear(2, 10), change

    def forward(self, inputs):
        return self.change(self.layer(inputs))


class Plain:
    """No network."""


def five(input_shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda x: x[:, :5], "returns [2, 5] for a batch of 2, must return a tensor (B, 10)"),
        (lambda x: x.mean(0), "returns [10] for a batch of 2, must return a tensor (B, 10)"),
        (lambda x: x[:, :, None], "returns [2, 10, 1] for a batch of 2, must return a tensor (B, 10)"),
        (lambda x: {"logits": x}, "returns dict, must return a tensor (B, 10), or two of them: outputs and auxil"),
        (lambda x: (x, x, x), "returns (Tensor, Tensor, Tensor), must return a tensor (B, 10), or two of them"),
        (lambda x: x.argmax(1), "returns a tensor of torch.int64, must return a tensor (B, 10) of floats, as logits"),
        (lambda x: x.detach(), "returns a tensor (B, 10) without its graph; compute it without torch.no_grad, detach"),
    ],
)
def test_what_a_network_must_not_return(change, line):
    assert output_failure(Returning(change), (2,), 10, torch.float32).startswith(line)


@pytest.mark.parametrize("change", [lambda x: x, lambda x: (x, x), lambda x: torch.cat([x, x], 1)])
def test_what_a_network_may_return(change):
    assert output_failure(Returning(change), (2,), 10, torch.float32) is None


def test_without_classes_outputs_have_any_shape():
    assert output_failure(Returning(lambda x: x[:, :, None]), (2,), None, torch.float32) is None
    assert output_failure(Returning(lambda x: x.sum()), (2,), None, torch.float32).endswith("a tensor (B, ...)")


def test_a_network_needs_parameters_of_known_shapes():
    frozen = nn.Linear(2, 10).requires_grad_(False)
    assert output_failure(frozen, (2,), 10, torch.float32).startswith("has no parameters to train; layers must be")
    assert output_failure(nn.LazyLinear(10), (2,), 10, torch.float32).startswith("has lazy layers, whose parameters")


def test_a_network_of_ones_own_is_tried_before_its_run():
    assert refusal(f"model._target_={__name__}.five") == (
        "model: the network returns [2, 5] for a batch of 2, must return a tensor (B, 10)"
    )
    assert (
        refusal(f"model._target_={__name__}.Plain") == f"model: {__name__}.Plain returns a Plain, must be an nn.Module"
    )
