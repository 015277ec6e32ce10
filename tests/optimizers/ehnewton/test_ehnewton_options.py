"""What can be added to a step of EHNewton: groups, momentum, shares of batches, damping and length that adapt."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import OF_A_STEP, Problem, bowl, error, numbers, parameter
from trainopt.optimizers import EHNewton


def mlp(rows=8, penalty=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    targets = torch.arange(rows) % 3
    return Problem(network, 2 * numbers(8, 5)[:rows], lambda z: F.cross_entropy(z, targets), penalty)


def logcosh(w):
    return (w.abs() + torch.nn.functional.softplus(-2 * w.abs())).sum()


def test_groups_have_their_own_rate_damping_and_momentum():
    """Of L = w.Aw/2, with D the dampings: v <- lr (A + D)^-1 (-A w) + m v, w <- w + v."""
    A = torch.tensor([[3.0, 0.5, -0.4], [0.5, 2.0, 0.7], [-0.4, 0.7, 4.0]], dtype=torch.float64)
    a, b = parameter(3.0, -2.0), parameter(5.0)
    groups = [
        {"params": [a], "lr": 0.5, "damping": 0.2, "momentum": 0.9},
        {"params": [b], "lr": 0.1, "damping": 0.7},
    ]
    optimizer = EHNewton(groups, lr=9.0, momentum=0.3, cg_tol=1e-13)
    lr, m = parameter(0.5, 0.5, 0.1).detach(), parameter(0.9, 0.9, 0.3).detach()
    D = torch.diag(parameter(0.2, 0.2, 0.7).detach())
    w, v = parameter(3.0, -2.0, 5.0).detach(), 0
    for _ in range(4):
        optimizer.step(lambda: torch.cat([a, b]) @ A @ torch.cat([a, b]) / 2)
        v = lr * torch.linalg.solve(A + D, -A @ w) + m * v
        w = w + v
        assert torch.cat([a, b]).tolist() == pytest.approx(w.tolist(), rel=1e-10)
        assert optimizer.last_step["step_length"] == pytest.approx(v.norm().item(), rel=1e-10)
        assert optimizer.last_step["fallbacks"] == 0


@pytest.mark.parametrize("iterations", [1, 20])
def test_one_iteration_uses_each_groups_damping(iterations):
    a, b = parameter(3.0), parameter(5.0)
    groups = [{"params": [a], "damping": 0.2}, {"params": [b], "damping": 4.0}]
    EHNewton(groups, lr=1.0, cg_max_iter=iterations, cg_tol=1e-12).step(lambda: (a**2 + 2 * b**2).sum() / 2)
    g = parameter(3.0, 10.0).detach()
    exact = [3 - 3 / 1.2, 5 - 10 / 6]
    closed = (parameter(3, 5) - (g @ g) / (g @ (parameter(1.2, 6) * g)) * g).tolist()
    assert [a.item(), b.item()] == pytest.approx(exact if iterations > 1 else closed, rel=1e-10)


@pytest.mark.parametrize("iterations", [1, 3])
def test_momentum_adds_a_share_of_the_last_step(iterations):
    """Of L = 3 w^2/2 with tau = 1: v <- -0.1 (3/4) w + 0.8 v."""
    w = parameter(40.0)
    optimizer = EHNewton([w], lr=0.1, damping=1.0, momentum=0.8, cg_max_iter=iterations)
    expected, v = 40.0, 0.0
    for _ in range(5):
        optimizer.step(lambda: 3 * (w**2).sum() / 2)
        v = -0.1 * 0.75 * expected + 0.8 * v
        expected += v
        assert w.item() == pytest.approx(expected, rel=1e-12)
        assert optimizer.last_step["step_length"] == pytest.approx(abs(v), rel=1e-12)


def test_a_warm_start_begins_at_a_share_of_the_last_direction():
    """Of L = w.Aw/2 with one iteration from x0 = 0.6 p: x0 + (r.r / r.Ar) r, with r = -g - A x0."""
    A = torch.tensor([[3.0, 0.5], [0.5, 20.0]], dtype=torch.float64)
    w = parameter(3.0, -2.0)
    optimizer = EHNewton([w], lr=0.5, damping=0.0, warm_start=0.6, cg_max_iter=1)
    expected, p = w.detach().clone(), torch.zeros(2).double()
    for step in range(3):
        optimizer.step(lambda: w @ A @ w / 2)
        x = 0.6 * p
        r = -A @ expected - A @ x
        p = x + (r @ r) / (r @ A @ r) * r
        expected = expected + 0.5 * p
        assert w.tolist() == pytest.approx(expected.tolist(), rel=1e-10)
        assert optimizer.last_step["hvps"] == 1 + (step > 0)


@pytest.mark.parametrize("iterations", [1, 300])
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
def test_the_curvature_can_be_that_of_a_part_of_the_batch(iterations, curvature):
    problem, part, tau = mlp(penalty=bowl), mlp(4, penalty=bowl), 0.1
    part.network.load_state_dict(problem.network.state_dict())
    A = part.hessian() if curvature == "hessian" else part.gauss_newton()
    A, g = A + tau * torch.eye(len(A)), problem.gradient()
    p = -torch.linalg.solve(A, g) if iterations > 1 else -(g @ g) / (g @ A @ g) * g
    asked = []

    def closure(share=1.0):
        asked.append(share)
        rows = round(8 * share)
        z = problem.network(problem.inputs[:rows])
        return F.cross_entropy(z, torch.arange(rows) % 3) + bowl(problem.params)

    optimizer = EHNewton(
        problem.params,
        lr=1.0,
        damping=tau,
        cg_max_iter=iterations,
        cg_tol=1e-11,
        curvature=curvature,
        curvature_share=0.5,
    )
    before, loss = problem.weights(), problem.closure().item()
    assert optimizer.step(closure).item() == pytest.approx(loss, rel=1e-12)
    assert error(problem.weights() - before, p) < 1e-9
    assert asked == [1.0, 0.5]
    whole = {"hessian": (2, 1), "gauss_newton": (4 / 3, 2 / 3)}[curvature][iterations == 1]
    # the part's own gradient, and products that see half of the batch
    expected = 0.5 + 0.5 * whole * optimizer.last_step["hvps"]
    assert optimizer.last_step["gradient_equivalents"] == pytest.approx(expected)


def test_a_share_needs_a_closure_that_takes_it():
    problem = mlp()
    with pytest.raises(ValueError, match="curvature_share=0.5: the closure must take the fraction of the batch"):
        EHNewton(problem.params, curvature_share=0.5).step(problem.closure)


def quartic(w):
    return (w**4).sum()


@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize(
    ("loss", "start", "lr", "low", "high", "scale"),
    [
        (quartic, 1.0, 1.0, 0.75, 9, 2 / 3),  # the model is too careful
        (logcosh, 0.5, 1.0, 0.75, 9, 2 / 3),  # or right
        (logcosh, 0.9, 1.0, 0.25, 0.75, 1.0),  # so so
        (logcosh, 0.613, 1.0, 0.75, 0.78, 2 / 3),
        (logcosh, 0.644, 1.0, 0.72, 0.75, 1.0),
        (logcosh, 0.963, 1.0, 0.25, 0.28, 1.0),
        (logcosh, 1.0, 1.0, 0, 0.25, 3 / 2),  # or too bold
        (logcosh, 1.5, 1.0, -99, 0, 3 / 2),  # the loss rises
    ],
)
def test_the_damping_follows_how_well_the_model_predicts(iterations, loss, start, lr, low, high, scale):
    w, tau = parameter(start), 1e-6
    optimizer = EHNewton([w], lr=lr, damping=tau, adapt_damping=True, cg_max_iter=iterations)
    at = torch.tensor([start], dtype=torch.float64)
    g = torch.autograd.functional.jacobian(loss, at).item()
    h = torch.autograd.functional.hessian(loss, at).item()
    optimizer.step(lambda: loss(w))
    step = w.item() - start
    assert step == pytest.approx(-lr * g / (h + tau), rel=1e-10)
    ratio = (loss(w).item() - loss(at).item()) / (g * step + h * step**2 / 2)
    assert low < ratio < high
    assert optimizer.last_step["reduction_ratio"] == pytest.approx(ratio, rel=1e-8)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(scale * tau, rel=1e-12)
    assert optimizer.last_step["damping"] == optimizer.param_groups[0]["damping"]


@pytest.mark.parametrize("iterations", [1, 20])
def test_an_adapted_damping_is_no_threshold_of_feasibility(iterations):
    w = parameter(0.1)
    optimizer = EHNewton([w], lr=1.0, damping=3.0, adapt_damping=True, cg_max_iter=iterations)
    optimizer.step(lambda: torch.sum(w**2) / 2)
    assert w.item() == pytest.approx(0.1 - 0.1 / 4)
    assert optimizer.last_step["fallbacks"] == 0


def test_the_damping_rises_where_the_loss_is_no_number_any_more():
    w = parameter(3.0)
    optimizer = EHNewton([w], lr=10.0, damping=0.1, adapt_damping=True)
    optimizer.step(lambda: torch.sum(w.log() ** 2))
    assert w.item() < 0
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.15)


def test_the_damping_follows_the_prediction_for_the_step_that_was_taken():
    w = parameter(2.0)
    optimizer = EHNewton([w], lr=1.0, damping=1e-6, adapt_damping=True, backtracking=9)
    at = parameter(2.0).detach()
    g, h = torch.tanh(at).item(), (1 / torch.cosh(at) ** 2).item()
    optimizer.step(lambda: logcosh(w))
    step = w.item() - 2
    assert optimizer.last_step["step_size"] < 1
    predicted = g * step + h * step**2 / 2
    expected = (logcosh(w).item() - logcosh(at).item()) / predicted
    assert optimizer.last_step["reduction_ratio"] == pytest.approx(expected, rel=1e-8)


def test_the_dampings_of_all_groups_follow():
    a, b = parameter(3.0), parameter(2.0)
    groups = [{"params": [a], "damping": 0.3}, {"params": [b], "damping": 0.6}]
    optimizer = EHNewton(groups, lr=1.0, adapt_damping=True)
    optimizer.step(lambda: torch.sum(a**2 + b**2))
    assert [group["damping"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("start", [0.5, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("momentum", [0.0, 0.3])
def test_a_step_is_the_longest_halved_one_that_lowers_the_loss_enough(start, momentum):
    w = parameter(start, 0.3)
    optimizer = EHNewton([w], lr=1.0, damping=1e-6, backtracking=30, momentum=momentum, cg_tol=1e-12)
    direction = torch.zeros(2).double()
    for _ in range(2):
        before = w.detach().clone()
        g = torch.autograd.functional.jacobian(logcosh, before)
        H = torch.autograd.functional.hessian(logcosh, before)
        whole = -torch.linalg.solve(H + 1e-6 * torch.eye(2), g) + momentum * direction
        optimizer.step(lambda: logcosh(w))
        factor = optimizer.last_step["step_size"]
        direction = factor * whole
        assert error(w.detach(), before + factor * whole) < 1e-12

        def enough(factor, before=before, whole=whole, g=g):
            return logcosh(before + factor * whole) <= logcosh(before) + 1e-4 * factor * g @ whole

        halves = [0.5**i for i in range(31)]
        assert factor == next((f for f in halves if enough(f)), halves[-1])
        tries = 1 + halves.index(factor)
        report = optimizer.last_step
        assert report["gradient_equivalents"] == pytest.approx(2 * report["hvps"] + tries / 3)
        assert report["step_length"] == pytest.approx(direction.norm().item(), rel=1e-10)


def test_a_step_is_halved_no_more_often_than_asked_for():
    w = parameter(3.0)
    optimizer = EHNewton([w], lr=1.0, damping=1e-6, backtracking=2)
    optimizer.step(lambda: logcosh(w))
    g, h = torch.tanh(torch.tensor(3.0).double()), 1 / torch.cosh(torch.tensor(3.0).double()) ** 2
    assert optimizer.last_step["step_size"] == 0.25
    assert w.item() == pytest.approx((3 - 0.25 * g / (h + 1e-6)).item(), rel=1e-10)


@pytest.mark.parametrize(
    ("options", "along", "product"),
    [({"curvature": "hessian"}, 1, 2), ({"curvature": "gauss_newton"}, 2 / 3, 4 / 3)],
)
@pytest.mark.parametrize("extra", [{}, {"adapt_damping": True}, {"backtracking": 3}, {"blocks": "parameter"}])
def test_a_report_has_what_is_documented_and_costs_are_those_documented(options, along, product, extra):
    for iterations in (1, 2):
        problem = mlp(penalty=bowl)
        optimizer = EHNewton(problem.params, lr=0.1, damping=0.1, cg_max_iter=iterations, cg_tol=0, **options, **extra)
        assert optimizer.last_step == {}
        optimizer.step(problem.closure)
        report = optimizer.last_step
        keys = {*OF_A_STEP, "hvps", "gradient_equivalents"}
        keys |= {"damping", "reduction_ratio"} if "adapt_damping" in extra else set()
        keys |= {"step_size"} if "backtracking" in extra else set()
        assert report.keys() == keys
        assert all(type(value) in (int, float) for value in report.values())
        systems = 4 if "blocks" in extra else 1
        assert report["hvps"] == systems * iterations + ("adapt_damping" in extra)
        assert report["cg_iterations"] == iterations
        cost = systems * iterations * (along if iterations == 1 else product)
        if "adapt_damping" in extra:
            # the Hessian's short way is there only where no product is to come
            cost += 1 / 3 + (product if iterations > 1 and along == 1 else along)
        if "backtracking" in extra:
            cost += 1 / 3
        assert report["gradient_equivalents"] == pytest.approx(cost)
