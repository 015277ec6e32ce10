"""Test functions against their formulas, scipy's, and their known optima."""

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der, rosen_hess

from trainopt.models import FUNCTIONS, Function

WITH_MINIMUM = [name for name, problem in FUNCTIONS.items() if problem.minimum is not None]
PLAIN = {  # as one would write them for numbers
    "product": lambda t, n: np.prod(t),
    "quadratic": lambda t, n: 5 + 3 * sum(x**2 for x in t),
    "rosenbrock": lambda t, n: rosen(t),
    "beale": lambda t, n: sum((c - t[0] * (1 - t[1] ** k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))),
    "ill_conditioned": lambda t, n: sum(100.0 ** (i / (n - 1)) * t[i] ** 2 for i in range(n)) / 2,
}


def points(count, n):
    return np.random.default_rng(0).normal(size=(count, n))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_are_those_of_the_formula_for_one_point_and_for_many(name):
    for n in (2,) if name == "beale" else (2, 3, 5):
        theta = points(6, n)
        expected = [PLAIN[name](t, n) for t in theta]
        many = FUNCTIONS[name](torch.from_numpy(theta).reshape(2, 3, n))
        assert many.shape == (2, 3)
        assert many.flatten().tolist() == pytest.approx(expected, rel=1e-12)
        assert FUNCTIONS[name](torch.from_numpy(theta[0])).item() == pytest.approx(expected[0], rel=1e-12)


@pytest.mark.parametrize("name", WITH_MINIMUM)
def test_the_optimum_is_a_strict_minimum_of_the_known_value(name):
    problem = FUNCTIONS[name]
    for n in (2,) if name == "beale" else (2, 4):
        optimum = problem.optimum(n)
        assert optimum.shape == (n,)
        assert problem(optimum).item() == problem.minimum
        assert torch.equal(torch.func.grad(problem)(optimum), torch.zeros(n, dtype=torch.float64))
        assert torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(problem))(optimum)).min() > 0
        away = optimum + torch.from_numpy(points(1000, n))
        assert (problem(away) > problem.minimum).all()


def test_the_product_has_a_saddle_at_the_origin_and_no_minimum():
    problem = FUNCTIONS["product"]
    assert problem.saddle
    assert problem.minimum is None
    assert problem.optimum(2) is None
    origin = torch.zeros(2, dtype=torch.float64)
    assert torch.equal(torch.func.grad(problem)(origin), origin)
    assert torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(problem))(origin)).tolist() == [-1, 1]


def test_derivatives_of_rosenbrock_are_scipys():
    theta = points(1, 4)[0]
    problem, point = FUNCTIONS["rosenbrock"], torch.from_numpy(theta)
    assert torch.func.grad(problem)(point).numpy() == pytest.approx(rosen_der(theta), rel=1e-10)
    assert torch.func.jacrev(torch.func.grad(problem))(point).numpy() == pytest.approx(rosen_hess(theta), rel=1e-10)
    eigenvalues = np.linalg.eigvalsh(rosen_hess(np.ones(2)))
    assert eigenvalues[1] / eigenvalues[0] == pytest.approx(2508, rel=1e-3)  # as the docstring says


def test_beale_has_the_saddle_point_that_its_docstring_names():
    point = torch.tensor([0.0, 1.0], dtype=torch.float64)
    problem = FUNCTIONS["beale"]
    assert problem(point).item() == 14.203125 == 1.5**2 + 2.25**2 + 2.625**2
    assert torch.equal(torch.func.grad(problem)(point), torch.zeros(2, dtype=torch.float64))
    low, high = torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(problem))(point)).tolist()
    assert low < 0 < high


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e6])
def test_the_eigenvalues_of_ill_conditioned_are_geometric(condition):
    problem = FUNCTIONS["ill_conditioned"].conditioned(condition)
    actual = torch.linalg.eigvalsh(torch.func.jacrev(torch.func.grad(problem))(torch.ones(4, dtype=torch.float64)))
    assert actual.numpy() == pytest.approx(np.geomspace(1, condition, 4), rel=1e-9)
    assert problem(torch.tensor([3.0])).item() == 4.5


def test_the_network_is_the_function_of_its_parameter_whatever_its_inputs():
    network = Function("beale", start=[2.0, 0.25])
    assert network.returns_loss
    assert network.theta.dtype == torch.float64
    value = network(torch.full((7, 1, 1, 1), torch.nan))
    assert value.shape == ()
    value.backward()
    point = torch.tensor([2.0, 0.25], dtype=torch.float64)
    assert torch.equal(network.theta.grad, torch.func.grad(FUNCTIONS["beale"])(point))
    assert network.report() == {"theta": [2.0, 0.25]}
    assert len(Function("quadratic", start=[1.0] * 16).report()["theta"]) == 16
    assert Function("quadratic", start=[1.0] * 17).report() == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"function": "beal"}, "must be one of product, quadratic, rosenbrock, beale, ill_conditioned"),
        ({"function": "beale", "start": [1.0, 2.0, 3.0]}, "beale needs two numbers"),
        ({"function": "rosenbrock", "start": [1.0]}, "rosenbrock needs at least two numbers"),
        ({"function": "quadratic", "start": []}, "quadratic needs at least one number"),
        ({"function": "ill_conditioned", "condition": 0.5}, "condition=0.5: must be >= 1"),
    ],
)
def test_what_does_not_exist_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Function(**options)
