"""The L2 term against its definition."""

import pytest
import torch
from torch import nn

from trainopt.optimizers import L2, Regularizer
from trainopt.runner.config.contracts import complete
from trainopt.runner.state.objective import covered_parameters


def test_the_l2_term_and_its_gradient_are_those_of_the_definition():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).double()
    penalty = L2(strength=0.3)
    params = covered_parameters(network, penalty)
    weights = [network[0].weight, network[3].weight]  # no biases, no norms
    assert [id(p) for p in params] == [id(w) for w in weights]
    value = penalty(params)
    assert value.item() == pytest.approx(0.3 * sum((w**2).sum().item() for w in weights), rel=1e-12)
    value.backward()
    for w in weights:
        assert torch.allclose(w.grad, 0.6 * w, rtol=1e-12)
    assert network[0].bias.grad is None
    assert torch.autograd.gradgradcheck(lambda *p: penalty(p), params)


def test_frozen_weights_are_not_penalised_and_a_penalty_without_a_choice_gets_all():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    network[0].weight.requires_grad_(False)
    assert covered_parameters(network, L2()) == []
    penalty = complete(lambda params: params[0].sum(), Regularizer, "regularizer.sum")
    assert len(covered_parameters(network, penalty)) == 3


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="must be >= 0"):
        L2(strength=-1)
