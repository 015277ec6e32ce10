"""Steps under torch.amp.GradScaler: what it multiplies a loss by is taken out of gradients and their graph."""

import contextlib

import pytest
import torch

from helpers.references import classifier, error, of_cycles
from trainopt.optimizers import EHNewton, Newton


@pytest.mark.slow
@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_a_scaled_loss_gives_the_steps_of_the_loss(kind, dtype):
    """GradScaler's factor is a power of 2, so it changes no bit until something underflows."""
    problems = [classifier(torch.float32) for _ in range(2)]
    plain, other = (kind(p.params, damping=1.0 if kind is Newton else 0.1, lr=0.5) for p in problems)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        losses = []
        for problem in problems:
            with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
                losses.append(problem.closure())
        plain.zero_grad()
        other.zero_grad()
        losses[0].backward(create_graph=True)
        plain.step()
        scaler.scale(losses[1]).backward(create_graph=True)
        scaler.step(other)
        scaler.update()
        assert error(problems[1].weights(), problems[0].weights()) < (1e-3 if dtype else 1e-6)
        assert other.last_step["hvps"] == plain.last_step["hvps"]
    assert "fallbacks" not in plain.last_step or other.last_step["fallbacks"] == 0


def scaled(kind, factor=1.0):
    """A classifier, its optimizer with the gradients of the loss times a factor, the scaler, and the weights."""
    problem = classifier(torch.float32)
    optimizer, scaler = kind(problem.params), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(factor * problem.closure()).backward(create_graph=True)
    return problem, optimizer, scaler, problem.weights()


@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_a_scaled_gradient_that_is_not_finite_skips_the_step_and_lowers_the_factor(kind):
    problem, optimizer, scaler, before = scaled(kind, float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(problem.weights(), before)
    assert scaler.get_scale() == 512
    optimizer.zero_grad()


@of_cycles
@pytest.mark.parametrize("kind", [EHNewton, Newton])
def test_gradients_that_were_divided_without_their_graph_are_refused(kind):
    problem, optimizer, scaler, before = scaled(kind)
    scaler.unscale_(optimizer)
    with pytest.raises(ValueError, match=r"^scaler.unscale_\(optimizer\) divides the gradients, but not their graph"):
        scaler.step(optimizer)
    assert torch.equal(problem.weights(), before)
    optimizer.zero_grad()
    other = kind(classifier(torch.float32).params)
    with pytest.raises(ValueError, match="^a GradScaler scales gradients in .grad; give no closure"):
        scaler.step(other, problem.closure)
