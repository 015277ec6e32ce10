"""EHNewton as others call it: timm's script, plain loops, dropout, checkpoints, wrong arguments."""

import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import (
    TARGETS,
    Flatten,
    Problem,
    Residual,
    bowl,
    buffers,
    error,
    numbers,
    of_cycles,
    parameter,
)
from trainopt.optimizers import Curvature, EHNewton


def ce(outputs):
    return F.cross_entropy(outputs, TARGETS)


def mlp(dropout=0.0, penalty=None, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 3))
    return Problem(network.double(), 2 * numbers(8, 5), ce, penalty)


def convolutional(seed=0):
    torch.manual_seed(seed)
    network = Flatten(
        nn.Conv2d(2, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        Residual(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 2),
    )
    return Problem(network.double(), numbers(8, 2, 6, 6), ce)


@of_cycles
@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize(
    "options",
    [
        {"cg_max_iter": 1},
        {"cg_max_iter": 4},
        {"cg_max_iter": 3, "blocks": "parameter"},
        {"cg_max_iter": 3, "warm_start": 0.9, "momentum": 0.5},
    ],
)
def test_the_convention_of_timms_script_gives_the_same_steps(make, options):
    theirs, ours = make(), make()
    optimizer = EHNewton(theirs.params, lr=0.1, **options)
    other = EHNewton(ours.params, lr=0.1, **options)
    for _ in range(3):
        loss = theirs.closure()
        loss.backward(create_graph=optimizer.is_second_order)
        gradients = [p.grad.detach().clone() for p in theirs.params]
        optimizer.step()
        for p, g in zip(theirs.params, gradients, strict=True):
            assert torch.equal(p.grad, g)
            assert not p.grad.requires_grad
            assert p.grad.grad_fn is None
        optimizer.zero_grad()
        other.step(ours.closure)
        assert error(theirs.weights(), ours.weights()) < 1e-10
        reports = {k: v for k, v in other.last_step.items() if k != "gradient_equivalents"}
        assert optimizer.last_step["gradient_equivalents"] == 2 * optimizer.last_step["hvps"]
        assert {k: optimizer.last_step[k] for k in reports} == pytest.approx(reports, rel=1e-8)
    for name, buffer in buffers(theirs.network).items():
        torch.testing.assert_close(buffer, buffers(ours.network)[name], rtol=1e-10, atol=0)


@of_cycles
def test_clipped_and_accumulated_gradients_are_followed():
    """The right-hand side is what `.grad` holds; the curvature is that of the sum of the losses."""
    problem, tau = mlp(penalty=bowl), 0.01
    g = problem.gradient()
    A = 2 * problem.hessian() + tau * torch.eye(len(g))
    b = -2 * g * (5.0 / (2 * g.norm() + 1e-6))  # as clip_grad_norm_ does it
    optimizer = EHNewton(problem.params, lr=1.0, damping=tau, cg_max_iter=100, cg_tol=1e-12)
    for _ in range(2):
        problem.closure().backward(create_graph=True)
    assert nn.utils.clip_grad_norm_(problem.params, 5.0) > 5.0
    before = problem.weights()
    optimizer.step()
    assert optimizer.last_step["fallbacks"] == 0
    assert error(problem.weights() - before, torch.linalg.solve(A, b)) < 1e-9


@of_cycles
def test_parameters_that_others_train_do_not_matter():
    problem = mlp()
    optimizer = EHNewton(problem.params[2:], cg_max_iter=2)
    problem.closure().backward(create_graph=True)
    before = [p.detach().clone() for p in problem.params]
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(problem.params[:2], before[:2], strict=True))
    assert not any(torch.equal(p, b) for p, b in zip(problem.params[2:], before[2:], strict=True))


def test_a_plain_loop_learns():
    problem = mlp()
    optimizer = EHNewton(problem.params, lr=0.5, damping=0.01)
    losses = [optimizer.step(problem.closure).item() for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_a_schedule_of_torch_changes_the_rate():
    w = parameter(4.0)
    optimizer = EHNewton([w], lr=0.5, damping=0.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for expected in (2.0, 1.5, 1.3125):
        optimizer.step(lambda: torch.sum(w**2))
        schedule.step()
        assert w.item() == pytest.approx(expected)


def test_a_step_needs_a_closure_or_gradients_with_a_graph():
    problem = mlp()
    optimizer = EHNewton(problem.params)
    message = r"give a closure that returns the loss, or call loss.backward\(create_graph=True\) before"
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    problem.closure().backward()
    with pytest.raises(ValueError, match=message):
        optimizer.step()


@of_cycles
@pytest.mark.parametrize(
    ("option", "value"),
    [("adapt_damping", True), ("backtracking", 2), ("curvature_share", 0.5), ("curvature", "gauss_newton")],
)
def test_what_needs_a_closure_says_so(option, value):
    problem = mlp()
    problem.closure().backward(create_graph=True)
    with pytest.raises(ValueError, match=f"^{option}={value}: needs a closure that returns the loss"):
        EHNewton(problem.params, **{option: value}).step()
    for p in problem.params:
        p.grad = None  # the cycle


@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("iterations", [1, 2])
def test_with_dropout_gradient_and_curvature_are_of_one_mask(curvature, iterations):
    problem, tau = mlp(0.5, bowl), 0.01

    def masked(function):
        def of(*arguments):
            torch.manual_seed(7)
            return function(*arguments)

        return of

    dropped = mlp(0.5, bowl)
    dropped.outputs_of = masked(dropped.outputs_of)
    A = (dropped.hessian() if curvature == "hessian" else dropped.gauss_newton()) + tau * torch.eye(57)
    g = dropped.gradient()
    assert error(g, mlp(0, bowl).gradient()) > 1e-3
    p = -(g @ g) / (g @ A @ g) * g
    if iterations == 2:
        r = -g - A @ p
        d = r + (r @ r) / (g @ g) * -g
        p = p + (r @ r) / (d @ A @ d) * d
    before = problem.weights()
    optimizer = EHNewton(problem.params, lr=1.0, damping=tau, cg_max_iter=iterations, curvature=curvature)
    torch.manual_seed(7)
    optimizer.step(problem.closure)
    assert optimizer.last_step["fallbacks"] == optimizer.last_step["negative_curvature"] == 0
    assert error(problem.weights() - before, p) < 1e-9


@pytest.mark.parametrize("options", [{"backtracking": 8}, {"adapt_damping": True}])
def test_looking_again_uses_the_same_mask_and_no_random_numbers(options):
    problem, lr = mlp(dropout=0.5), 40.0 if "backtracking" in options else 1.0
    optimizer = EHNewton(problem.params, lr=lr, damping=0.01, cg_max_iter=1, **options)
    before = problem.weights()

    def loss(weights):
        torch.manual_seed(7)
        return problem.of(weights).item()

    start = loss(before)
    once = torch.get_rng_state()
    torch.manual_seed(7)
    assert optimizer.step(problem.closure).item() == pytest.approx(start, rel=1e-12)
    assert torch.equal(torch.get_rng_state(), once)
    report, change = optimizer.last_step, problem.weights() - before
    if "backtracking" in options:
        factor, slope = report["step_size"], lr * report["directional_derivative"]
        assert 2**-8 < factor < 1
        assert loss(before + change) - start <= 1e-4 * factor * slope
        assert loss(before + 2 * change) - start > 1e-4 * 2 * factor * slope
    else:
        torch.manual_seed(7)
        curvature = Curvature(lambda: problem.of(weights), [weights := before.clone().requires_grad_()])
        predicted = (curvature.gradient[0] @ change + curvature.quadratic_form([change]) / 2).item()
        assert report["reduction_ratio"] == pytest.approx((loss(before + change) - start) / predicted, rel=1e-8)


@pytest.mark.parametrize("options", [{"backtracking": 8, "lr": 1e3}, {"adapt_damping": True}, {"curvature_share": 1}])
def test_looking_again_leaves_statistics_as_one_pass_does(options):
    problem, once = convolutional(), convolutional()
    once.closure()
    optimizer = EHNewton(problem.params, cg_max_iter=1, **options)
    optimizer.step(problem.closure)
    assert optimizer.last_step.get("step_size", 0) < 1
    for name, buffer in buffers(problem.network).items():
        torch.testing.assert_close(buffer, buffers(once.network)[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "warm_start": 0.95, "adapt_damping": True, "cg_max_iter": 3},
        {"momentum": 0.5, "backtracking": 3, "cg_max_iter": 1, "curvature": "gauss_newton"},
        {"warm_start": 0.5, "blocks": "parameter", "cg_max_iter": 2, "adapt_damping": True},
    ],
)
def test_saved_and_loaded_in_the_middle_it_goes_on_bit_for_bit(options):
    def steps(problem, optimizer, n):
        for _ in range(n):
            optimizer.step(problem.closure)

    options = {"lr": 0.5, "damping": 0.01, **options}
    whole = mlp()
    optimizer = EHNewton(whole.params, **options)
    steps(whole, optimizer, 7)

    first, second = mlp(), mlp(seed=1)
    before = EHNewton(first.params, **options)
    steps(first, before, 3)
    file = io.BytesIO()
    torch.save((first.network.state_dict(), before.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second.network.load_state_dict(weights)
    after = EHNewton(second.params)  # the options are in the state
    after.load_state_dict(state)
    steps(second, after, 4)
    assert torch.equal(second.weights(), whole.weights())
    assert after.last_step == optimizer.last_step
    assert after.param_groups[0]["damping"] == optimizer.param_groups[0]["damping"]


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("lr", -1e-3, ">= 0"),
        ("lr", float("nan"), ">= 0"),
        ("damping", -1.0, ">= 0"),
        ("cg_max_iter", 0, "an integer >= 1"),
        ("cg_tol", -1e-5, ">= 0"),
        ("blocks", "layer", "one of all, parameter"),
        ("curvature", "fisher", "one of hessian, gauss_newton"),
        ("curvature_share", 0.0, r"in \(0, 1\]"),
        ("curvature_share", 1.5, r"in \(0, 1\]"),
        ("warm_start", -0.1, r"in \[0, 1\]"),
        ("momentum", 1.0, r"in \[0, 1\)"),
        ("backtracking", -1, "an integer >= 0"),
    ],
)
def test_an_argument_out_of_its_range_is_named_with_what_is_right(option, value, rule):
    with pytest.raises(ValueError, match=f"^{option}={value}: must be {rule}"):
        EHNewton([parameter(1.0)], **{option: value})
    with pytest.raises(ValueError, match=f"^{option}={value}: "):
        EHNewton([{"params": [parameter(1.0)], option: value}])


@pytest.mark.parametrize("option", [("blocks", "parameter"), ("cg_max_iter", 3), ("curvature", "gauss_newton")])
def test_what_is_of_the_whole_step_cannot_differ_between_groups(option):
    name, value = option
    with pytest.raises(ValueError, match=f"^{name}={value}: cannot differ between groups"):
        EHNewton([{"params": [parameter(1.0)]}, {"params": [parameter(1.0)], name: value}])


@pytest.mark.parametrize("option", ["backtracking", "cg_max_iter"])
def test_numbers_of_times_are_whole(option):
    with pytest.raises(ValueError, match=f"^{option}=1.5: "):
        EHNewton([parameter(1.0)], **{option: 1.5})
