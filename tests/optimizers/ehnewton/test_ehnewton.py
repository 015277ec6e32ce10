"""A step of EHNewton against damped Newton steps from dense matrices, in float64, and each of its branches."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import TARGETS, Flatten, Problem, bowl, error, flat, numbers, parameter
from trainopt.optimizers import Curvature, EHNewton, conjugate_gradient

MATRICES = ("hessian", "gauss_newton")


def mlp(scale=1.0, penalty=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    return Problem(network, 2 * numbers(8, 5), lambda z: scale * F.cross_entropy(z, TARGETS), penalty)


def convolutional(penalty=None):
    torch.manual_seed(0)
    network = Flatten(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 2))
    return Problem(network.double(), numbers(8, 2, 6, 6), lambda z: F.cross_entropy(z, TARGETS), penalty)


def dense(problem, curvature):
    return problem.hessian() if curvature == "hessian" else problem.gauss_newton()


def only_blocks(problem, matrix):
    """The matrix, 0 outside the blocks of parameters."""
    sizes = [p.numel() for p in problem.params]
    return torch.block_diag(*[matrix[a - n : a, a - n : a] for a, n in zip(np.cumsum(sizes), sizes, strict=True)])


def stepped(problem, **options):
    """The change of the weights by a step, and the optimizer."""
    optimizer = EHNewton(problem.params, **{"lr": 1.0, **options})
    before = problem.weights()
    optimizer.step(problem.closure)
    return problem.weights() - before, optimizer


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("curvature", MATRICES)
@pytest.mark.parametrize("blocks", ["all", "parameter"])
def test_with_enough_iterations_it_is_the_damped_newton_step(make, curvature, blocks):
    problem, tau = make(penalty=bowl), 0.1
    A, g = dense(problem, curvature), problem.gradient()
    assert torch.linalg.eigvalsh(A)[0] > 0
    if blocks == "parameter":
        A = only_blocks(problem, A)
    p = -torch.linalg.solve(A + tau * torch.eye(len(g)), g)
    change, optimizer = stepped(
        problem, lr=0.3, damping=tau, cg_max_iter=400, cg_tol=1e-11, blocks=blocks, curvature=curvature
    )
    assert optimizer.last_step["fallbacks"] == 0
    assert optimizer.last_step["negative_curvature"] == 0
    assert error(change, 0.3 * p) < 1e-9
    assert optimizer.last_step["residual"] < 1e-10
    assert optimizer.last_step["directional_derivative"] == pytest.approx((g @ p).item(), rel=1e-9)
    assert optimizer.last_step["step_length"] == pytest.approx(0.3 * p.norm().item(), rel=1e-9)


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("curvature", MATRICES)
@pytest.mark.parametrize("blocks", ["all", "parameter"])
def test_one_iteration_is_the_closed_form(make, curvature, blocks):
    problem = make()
    A, g, tau = dense(problem, curvature), problem.gradient(), 0.01
    change, optimizer = stepped(problem, damping=tau, cg_max_iter=1, blocks=blocks, curvature=curvature)
    expected, slope, bent = [], 0.0, 0
    for part in torch.arange(len(g)).split([p.numel() for p in problem.params] if blocks == "parameter" else len(g)):
        h, B = g[part], A[part][:, part]
        bend = h @ B @ h + tau * h @ h
        bent += int(bend <= 0)
        expected.append(-h if bend <= 0 else -(h @ h) / bend * h)
        slope += (h @ expected[-1]).item()
    assert error(change, torch.cat(expected)) < 1e-9
    report = optimizer.last_step
    assert report["directional_derivative"] == pytest.approx(slope, rel=1e-9)
    assert (report["fallbacks"], report["negative_curvature"]) == (0, bent)
    assert report["residual"] == pytest.approx(g.norm().item(), rel=1e-10)  # of the start: a further product saved
    assert report["hvps"] == len(expected)


@pytest.mark.parametrize("make", [mlp, convolutional])
@pytest.mark.parametrize("curvature", MATRICES)
def test_the_short_way_of_one_iteration_is_conjugate_gradients(make, curvature):
    problem, tau = make(), 0.01
    full = Curvature(problem.closure, problem.params, curvature)

    def product(v):
        return [Cv + tau * part for Cv, part in zip(full.matvec(v), v, strict=True)]

    x, info = conjugate_gradient(product, [-g for g in full.gradient], max_iter=1)
    change, optimizer = stepped(problem, damping=tau, cg_max_iter=1, curvature=curvature)
    assert error(change, flat(x)) < 1e-11
    assert optimizer.last_step["cg_iterations"] == info.iterations == 1


@pytest.mark.parametrize("iterations", [2, 5])
@pytest.mark.parametrize("relative", [False, True])
def test_a_truncated_step_is_that_of_conjugate_gradients_on_the_dense_matrix(iterations, relative):
    problem = mlp(penalty=bowl)
    A, g = problem.hessian() + 2 * torch.eye(57), problem.gradient()
    x, info = conjugate_gradient(lambda v: [A @ v[0]], [-g], max_iter=iterations, tol=0.1, relative=relative)
    change, optimizer = stepped(problem, damping=2.0, cg_max_iter=iterations, cg_tol=0.1, cg_tol_relative=relative)
    assert error(change, x[0]) < 1e-9
    assert optimizer.last_step["cg_iterations"] == optimizer.last_step["hvps"] == info.iterations
    assert optimizer.last_step["residual"] == pytest.approx(info.residual, rel=1e-8)


@pytest.mark.parametrize(("blocks", "systems"), [("all", 1), ("parameter", 4)])
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("curvature", MATRICES)
def test_a_step_too_flat_to_be_feasible_is_one_of_gradient_descent(blocks, systems, iterations, curvature):
    problem = mlp(scale=0.01)
    g = problem.gradient()
    options = {"blocks": blocks, "cg_max_iter": iterations, "curvature": curvature, "cg_tol": 1e-12}
    change, optimizer = stepped(problem, lr=0.5, damping=1.0, **options)
    assert error(change, -0.5 * g) < 1e-11
    assert optimizer.last_step["fallbacks"] == systems
    assert optimizer.last_step["directional_derivative"] == pytest.approx(-(g @ g).item(), rel=1e-10)


@pytest.mark.parametrize("iterations", [1, 20])
def test_the_threshold_of_feasibility_is_the_damping(iterations):
    """With L = w^2/2 and tau, p = -w/(1 + tau): g.p = -w^2/(1 + tau) is -tau at w^2 = tau(1 + tau)."""
    tau = 0.5
    edge = (tau * (1 + tau)) ** 0.5
    for start, fallbacks in ((1.01 * edge, 0), (0.99 * edge, 1)):
        w = parameter(start)
        optimizer = EHNewton([w], lr=1.0, damping=tau, cg_max_iter=iterations)
        optimizer.step(lambda w=w: (w**2).sum() / 2)
        assert optimizer.last_step["fallbacks"] == fallbacks
        assert w.item() == pytest.approx(0 if fallbacks else start - start / (1 + tau), abs=1e-15)


def test_a_gradient_below_the_tolerance_is_followed_all_the_same():
    w = parameter(1e-3)
    optimizer = EHNewton([w], lr=0.1, damping=0.01, cg_tol=1.0)
    optimizer.step(lambda: torch.sum(w**2))
    assert w.item() == pytest.approx(1e-3 - 0.1 * 2e-3)
    assert optimizer.last_step["cg_iterations"] == optimizer.last_step["hvps"] == 0
    assert optimizer.last_step["fallbacks"] == 1


def test_without_damping_it_rests_where_the_gradient_is_zero():
    w = parameter(0.0, 0.0)
    optimizer = EHNewton([w], lr=1.0, damping=0.0)
    optimizer.step(lambda: torch.sum(w**2))
    assert w.tolist() == [0, 0]
    assert optimizer.last_step["step_length"] == 0


@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("blocks", ["all", "parameter"])
def test_negative_curvature_at_once_gives_the_gradient_and_is_counted(iterations, blocks):
    a, b = parameter(1.0, 2.0), parameter(3.0)
    optimizer = EHNewton([a, b], lr=0.1, damping=0.5, cg_max_iter=iterations, blocks=blocks)
    optimizer.step(lambda: -(a**2).sum() - (b**2).sum())
    assert a.tolist() == pytest.approx([1.2, 2.4])
    assert b.tolist() == pytest.approx([3.6])
    systems = 1 if blocks == "all" else 2
    assert optimizer.last_step["negative_curvature"] == systems
    assert optimizer.last_step["fallbacks"] == 0
    assert optimizer.last_step["cg_iterations"] == 0
    assert optimizer.last_step["hvps"] == systems


def test_only_the_system_with_negative_curvature_is_counted():
    a, b = parameter(1.0, 2.0), parameter(3.0)
    optimizer = EHNewton([a, b], lr=1.0, damping=0.0, blocks="parameter")
    optimizer.step(lambda: (a**2).sum() - (b**2).sum())
    assert a.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert b.tolist() == pytest.approx([9])
    assert optimizer.last_step["negative_curvature"] == 1


def plain_conjugate_gradients(A, b):
    """As in the textbook, up to the first direction of negative curvature; returns x and iterations."""
    x, r, d, iterations = np.zeros_like(b), b.copy(), b.copy(), 0
    while d @ A @ d > 0:
        alpha = r @ r / (d @ A @ d)
        x, new = x + alpha * d, r - alpha * A @ d
        d, r = new + (new @ new) / (r @ r) * d, new
        iterations += 1
    return x, iterations


def test_negative_curvature_later_keeps_what_was_reached_and_is_counted():
    A = np.diag([-2.0, 1.0, 3.0, 8.0, 20.0])
    start = np.array([0.1, 3.0, 2.0, 1.0, 1.0])
    w, diagonal = parameter(*start), torch.from_numpy(np.diag(A).copy())
    optimizer = EHNewton([w], lr=1.0, damping=0.25)
    optimizer.step(lambda: (diagonal * w**2).sum() / 2)
    p, iterations = plain_conjugate_gradients(A + 0.25 * np.eye(5), -A @ start)
    assert iterations > 1
    assert w.detach().numpy() == pytest.approx(start + p, rel=1e-10)
    report = optimizer.last_step
    assert (report["negative_curvature"], report["fallbacks"]) == (1, 0)
    assert (report["cg_iterations"], report["hvps"]) == (iterations, iterations + 1)
    assert report["directional_derivative"] == pytest.approx(A @ start @ p, rel=1e-10)


@pytest.mark.parametrize("curvature", MATRICES)
@pytest.mark.parametrize("iterations", [1, 100])
def test_frozen_parameters_and_those_without_gradient_stay_and_do_not_matter(curvature, iterations):
    problem, tau = mlp(), 0.1
    extra = parameter(1.0, 2.0)
    problem.network[0].weight.requires_grad_(False)
    free = Problem(problem.network, problem.inputs, problem.loss, bowl)
    A, g = dense(free, curvature) + tau * torch.eye(free.weights().numel()), free.gradient()
    p = -torch.linalg.solve(A, g) if iterations > 1 else -(g @ g) / (g @ A @ g) * g
    frozen, before = problem.network[0].weight.clone(), free.weights()
    optimizer = EHNewton(
        [extra, *problem.network.parameters()],
        lr=1.0,
        damping=tau,
        cg_max_iter=iterations,
        cg_tol=1e-11,
        curvature=curvature,
    )
    optimizer.step(free.closure)
    assert error(free.weights() - before, p) < 1e-9
    assert torch.equal(problem.network[0].weight, frozen)
    assert extra.tolist() == [1, 2]
    assert extra not in optimizer.state


@pytest.mark.parametrize("options", [{}, {"backtracking": 2}, {"adapt_damping": True}, {"blocks": "parameter"}])
def test_a_loss_that_no_parameter_is_in_moves_nothing(options):
    w, other = parameter(1.0), parameter(2.0)
    optimizer = EHNewton([w], **options)
    assert optimizer.step(lambda: torch.sum(other**2)).item() == 4
    assert w.item() == 1
    assert optimizer.last_step["step_length"] == 0


def test_the_loss_before_the_step_is_returned_and_no_gradient_is_touched():
    problem = mlp()
    loss = problem.closure().item()
    optimizer = EHNewton(problem.params)
    returned = optimizer.step(problem.closure)
    assert returned.item() == pytest.approx(loss, rel=1e-12)
    assert not returned.requires_grad
    assert all(p.grad is None for p in problem.params)
