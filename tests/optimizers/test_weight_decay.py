"""Weight decay of our optimizers: decoupled from the step, beside closed forms and momentum."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import TARGETS, classifier, error, flat, numbers, step
from trainopt.optimizers import L2, AdaptiveNesterov, EHNewton, Newton


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (EHNewton, {"lr": 0.5, "cg_max_iter": 1}),
        (EHNewton, {"lr": 0.5, "cg_max_iter": 3, "momentum": 0.9}),
        (EHNewton, {"lr": 0.5, "cg_max_iter": 3, "adapt_damping": True, "backtracking": 3}),
        (Newton, {"lr": 0.5, "damping": 1.0}),
        (AdaptiveNesterov, {"gamma": 0.3}),
    ],
)
def test_weight_decay_is_that_of_adamw_beside_the_step(kind, options):
    """The change -lr weight_decay w beside the step without it, from the same weights and state."""
    problem = classifier()
    decayed = [problem.params[0], problem.params[2]]
    groups = [{"params": decayed, "weight_decay": 0.3}, {"params": [problem.params[1], problem.params[3]]}]
    optimizer = kind(groups, **options)
    plain = kind([{"params": g["params"]} for g in groups], **options)
    for _ in range(4):
        before = [p.detach().clone() for p in problem.params]
        plain.load_state_dict(
            copy.deepcopy({**optimizer.state_dict(), "param_groups": plain.state_dict()["param_groups"]})
        )
        if "adapt_damping" in options:
            for ours, other in zip(optimizer.param_groups, plain.param_groups, strict=True):
                other["damping"] = ours["damping"]
        step(plain, problem.closure)
        expected = [p.detach().clone() for p in problem.params]
        with torch.no_grad():
            for p, b in zip(problem.params, before, strict=True):
                p.copy_(b)
        step(optimizer, problem.closure)
        lr = options.get("lr", optimizer.last_step.get("lr"))
        for p, b, e in zip(problem.params, before, expected, strict=True):
            is_decayed = any(p is d for d in decayed)
            torch.testing.assert_close(p.detach(), e - (lr * 0.3 * b if is_decayed else 0), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("features", [5, 400])  # fewer than samples, and more: coordinates in the span of features
@pytest.mark.parametrize("penalty", [L2(0.0), L2(0.01)])
def test_weight_decay_of_a_linear_classifier_is_that_of_the_general_form(momentum, features, penalty):
    both = []
    for is_plain in (True, False):  # a product with a tensor is no linear classifier's loss
        torch.manual_seed(0)
        layer = nn.Linear(features, 3).double()
        optimizer = EHNewton(layer.parameters(), lr=0.5, momentum=momentum, weight_decay=0.2, cg_max_iter=5)

        def loss(is_plain=is_plain, m=layer):
            z = m(numbers(8, features))
            return F.cross_entropy(z if is_plain else torch.ones(()) * z, TARGETS) + penalty([m.weight])

        for _ in range(3):
            optimizer.step(loss)
        assert ("closed form" in (optimizer.reason_to_read() or "")) == is_plain
        both.append(flat(layer.parameters()))
    assert error(*both) < 1e-9


def test_the_weight_decay_of_newton_ends_where_both_pulls_are_equal():
    """The iteration (1 - lr c) theta - lr (theta - a) rests at a / (1 + c)."""
    theta = nn.Parameter(torch.tensor([5.0, 3.0], dtype=torch.float64))
    a = torch.tensor([1.0, -2.0], dtype=torch.float64)
    optimizer = Newton([theta], lr=0.5, weight_decay=0.25)
    for _ in range(60):
        optimizer.step(lambda: (theta - a).square().sum() / 2)
    assert torch.allclose(theta, a / 1.25, rtol=1e-12)
