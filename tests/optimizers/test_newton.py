"""Newton's method against numpy's solutions, torch.func's Hessians and known optima, in float64."""

import numpy as np
import pytest
import torch
from scipy.optimize import rosen_der, rosen_hess
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.references import flat
from trainopt.models import FUNCTIONS
from trainopt.optimizers import Newton


def parameter(values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def stepped(theta, function, steps, **options):
    optimizer = Newton([theta], **options)
    for _ in range(steps):
        optimizer.step(lambda: function(theta))
    return optimizer


def test_the_quadratic_of_menssen_is_solved_in_one_step():
    theta = parameter([5.0, 3.0])
    optimizer = stepped(theta, FUNCTIONS["quadratic"], 1)
    assert theta.tolist() == [0.0, 0.0]
    assert FUNCTIONS["quadratic"](theta).item() == 5
    assert optimizer.last_step == {
        "hvps": 2,
        "step_length": pytest.approx(34**0.5),
        "directional_derivative": pytest.approx(-6 * 34),
        "singular": 0,
        "negative_eigenvalues": 0,
    }


@pytest.mark.parametrize("damping", [0.0, 0.7])
def test_a_step_is_numpys_solution(damping):
    rng = np.random.default_rng(0)
    root, b, start = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=6)
    matrix = root + root.T  # indefinite
    theta = parameter(start.tolist())
    a, c = torch.from_numpy(matrix), torch.from_numpy(b)
    optimizer = stepped(theta, lambda t: t @ a @ t / 2 + c @ t, 1, lr=0.4, damping=damping)
    gradient = matrix @ start + b
    step = -0.4 * np.linalg.solve(matrix + damping * np.eye(6), gradient)
    assert theta.detach().numpy() == pytest.approx(start + step, rel=1e-10)
    assert optimizer.last_step["step_length"] == pytest.approx(np.linalg.norm(step), rel=1e-10)
    assert optimizer.last_step["directional_derivative"] == pytest.approx(gradient @ step, rel=1e-10)
    below = (np.linalg.eigvalsh(matrix + damping * np.eye(6)) < 0).sum()
    assert optimizer.last_step["negative_eigenvalues"] == below > 0


@pytest.mark.parametrize(("name", "start"), [("rosenbrock", [0.8, 0.9]), ("beale", [2.8, 0.45])])
def test_optima_are_found_from_nearby(name, start):
    theta = parameter(start)
    stepped(theta, FUNCTIONS[name], 10)
    assert theta.tolist() == pytest.approx(FUNCTIONS[name].optimum(2).tolist(), rel=1e-12)


def test_a_step_on_rosenbrock_is_that_of_scipys_derivatives():
    start = np.array([-1.2, 1.0, 0.5])
    theta = parameter(start.tolist())
    stepped(theta, FUNCTIONS["rosenbrock"], 1)
    expected = start - np.linalg.solve(rosen_hess(start), rosen_der(start))
    assert theta.detach().numpy() == pytest.approx(expected, rel=1e-10)


def test_it_goes_to_a_saddle_point_and_says_so():
    theta = parameter([2.0, 1.0])
    optimizer = stepped(theta, FUNCTIONS["product"], 1)
    assert theta.tolist() == pytest.approx([0, 0], abs=1e-15)
    assert optimizer.last_step["negative_eigenvalues"] == 1


def test_a_step_of_an_mlp_is_the_solution_with_the_dense_hessian():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(8, 4, dtype=torch.float64), torch.randint(3, (8,))
    names = [name for name, _ in network.named_parameters()]
    sizes = [p.numel() for p in network.parameters()]
    before = flat(network.parameters())

    def loss(flat):
        parts = zip(names, flat.split(sizes), network.parameters(), strict=True)
        weights = {name: part.view_as(p) for name, part, p in parts}
        return cross_entropy(torch.func.functional_call(network, weights, inputs), targets)

    damped = torch.func.jacrev(torch.func.grad(loss))(before) + 0.3 * torch.eye(len(before), dtype=torch.float64)
    expected = before - torch.linalg.solve(damped, torch.func.grad(loss)(before))
    optimizer = Newton(network.parameters(), damping=0.3)
    with torch.no_grad():  # the step enables gradients itself
        returned = optimizer.step(lambda: cross_entropy(network(inputs), targets))
    after = flat(network.parameters())
    assert torch.allclose(after, expected, rtol=1e-9, atol=1e-12)
    assert returned.item() == pytest.approx(loss(before).item())
    assert not returned.requires_grad
    assert optimizer.last_step["hvps"] == len(before)
    assert all(p.grad is None for p in network.parameters())


def test_where_the_hessian_is_singular_the_step_is_the_least_squares_one_of_least_norm():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, 4))  # (a theta - b)^2 / 2 has a Hessian of rank 2
    b, start = rng.normal(size=2), rng.normal(size=4)
    theta = parameter(start.tolist())
    matrix, right = torch.from_numpy(a), torch.from_numpy(b)
    optimizer = stepped(theta, lambda t: (matrix @ t - right).square().sum() / 2, 1)
    step = np.linalg.lstsq(a.T @ a, -a.T @ (a @ start - b), rcond=1e-12)[0]
    assert theta.detach().numpy() - start == pytest.approx(step, rel=1e-9)
    assert optimizer.last_step["singular"] == 1
    stepped(theta, lambda t: 3 * t.sum(), 1)  # a linear loss: no curvature at all, no least-squares step
    assert theta.detach().numpy() - start == pytest.approx(step, rel=1e-9)


def test_frozen_parameters_and_those_that_the_loss_does_not_depend_on_stay_and_are_no_part_of_the_matrix():
    theta, frozen, unused = parameter([5.0, 3.0]), parameter([2.0]), parameter([7.0])
    frozen.requires_grad_(False)
    optimizer = Newton([frozen, theta, unused])
    optimizer.step(lambda: FUNCTIONS["quadratic"](theta * frozen))
    assert (theta.tolist(), frozen.item(), unused.item()) == ([0.0, 0.0], 2.0, 7.0)
    assert (optimizer.last_step["hvps"], optimizer.last_step["singular"]) == (2, 0)


def test_groups_have_their_own_lr_and_damping_and_one_hessian():
    start = np.array([1.0, -2.0])
    x, y = parameter([start[0]]), parameter([start[1]])
    optimizer = Newton([{"params": [x], "lr": 0.5}, {"params": [y], "damping": 2.0}])
    optimizer.step(lambda: 2 * x.square().sum() + 3 * x @ y + 4 * y.square().sum())
    matrix = np.array([[4.0, 3.0], [3.0, 8.0]])
    step = -np.linalg.solve(matrix + np.diag([0.0, 2.0]), matrix @ start)
    assert [x.item(), y.item()] == pytest.approx(start + [0.5, 1.0] * step, rel=1e-12)


def test_too_many_parameters_are_refused_at_construction():
    with pytest.raises(ValueError, match=r"2,001 parameters are more than max_parameters=2000.*use ehnewton"):
        Newton([nn.Parameter(torch.zeros(2001))])
    Newton([nn.Parameter(torch.zeros(2000)), nn.Parameter(torch.zeros(1), requires_grad=False)])
    optimizer = Newton([nn.Parameter(torch.zeros(3))], max_parameters=4)
    with pytest.raises(ValueError, match="5 parameters"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


@pytest.mark.parametrize("options", [{"damping": -1.0}, {"lr": -0.1}])
def test_negative_arguments_are_refused(options):
    with pytest.raises(ValueError, match="must be >= 0"):
        Newton([parameter([1.0])], **options)


@pytest.mark.parametrize(("power", "what"), [(1.5, "Hessian"), (0.5, "gradient")])
def test_what_is_not_finite_leaves_the_parameters_as_they_are(power, what):
    theta = parameter([0.0])
    with pytest.raises(FloatingPointError, match=f"the {what} is not finite"):
        stepped(theta, lambda t: (t**power).sum(), 1)
    assert theta.tolist() == [0.0]


def test_eigenvalues_that_do_not_converge_leave_the_parameters_as_they_are(monkeypatch):
    """The run then ends as diverged, and not with an error."""

    def fails(matrix):
        raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    theta = parameter([5.0, 3.0])
    with pytest.raises(FloatingPointError, match="the eigenvalues of the Hessian cannot be computed"):
        stepped(theta, FUNCTIONS["quadratic"], 1)
    assert theta.tolist() == [5.0, 3.0]


def test_state_goes_round():
    theta, again = parameter([5.0, 3.0]), parameter([5.0, 3.0])
    first = stepped(theta, FUNCTIONS["quadratic"], 0, lr=0.5, damping=2.0)
    second = Newton([again])
    second.load_state_dict(first.state_dict())
    for optimizer, point in ((first, theta), (second, again)):
        optimizer.step(lambda p=point: FUNCTIONS["quadratic"](p))
    assert torch.equal(theta, again)
    assert theta.tolist() == pytest.approx([5 * 0.625, 3 * 0.625])  # 1 - 0.5 * 6 / (6 + 2)


def test_a_closure_that_calls_backward_may_not_return_the_loss_with_its_graph():
    """As of EHNewton: which of the two is meant?"""
    theta = parameter([5.0, 3.0])

    def closure():
        loss = FUNCTIONS["quadratic"](theta)
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="^the closure must return the loss without calling backward$"):
        Newton([theta]).step(closure)
    assert theta.tolist() == [5.0, 3.0]
