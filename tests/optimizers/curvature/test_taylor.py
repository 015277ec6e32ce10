"""Taylor estimates against closed forms and dense derivatives, in float64."""

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der, rosen_hess
from torch import nn

from trainopt.optimizers import taylor_estimates


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_menssens_linear_and_quadratic_functions():
    """Menssen 2019, appendix B: from (2, 3) towards (3, 4)."""
    x, d = nn.Parameter(vector(2, 3)), [vector(1, 1)]
    linear = taylor_estimates(lambda: 5 + (3 * x).sum(), [x], d)
    assert (linear.value, linear.first_order, linear.second_order, linear.actual) == (20, 26, 26, 26)
    quadratic = taylor_estimates(lambda: 5 + 3 * x.square().sum(), [x], d)
    assert (quadratic.value, quadratic.slope, quadratic.curvature) == (44, 30, 12)
    assert (quadratic.first_order, quadratic.second_order, quadratic.actual) == (74, 80, 80)
    assert (quadratic.first_order_error, quadratic.second_order_error) == (6, 0)


@pytest.mark.parametrize("length", [1e-2, 1.0, 10.0])
def test_the_error_on_a_cubic_is_the_cubic_term(length):
    x = nn.Parameter(vector(0.5, -2))
    d = length * vector(1, 3)
    estimates = taylor_estimates(lambda: x.pow(3).sum() + 7, [x], [d])
    # the difference of values that agree to many digits
    assert estimates.second_order_error == pytest.approx((d**3).sum().item(), rel=1e-9)
    assert estimates.first_order_error == pytest.approx((3 * x * d**2 + d**3).sum().item(), rel=1e-9)


def test_rosenbrock_over_several_tensors_is_as_scipy_has_it():
    rng = np.random.default_rng(0)
    for _ in range(5):
        x, d = rng.normal(size=(2, 6))
        params = [nn.Parameter(torch.from_numpy(part)) for part in (x[:2].copy(), x[2:].copy().reshape(2, 2))]
        direction = [torch.from_numpy(d[:2]), torch.from_numpy(d[2:].reshape(2, 2))]
        estimates = taylor_estimates(
            lambda p=params: rosenbrock(torch.cat([t.flatten() for t in p])), params, direction
        )
        assert estimates.value == pytest.approx(rosen(x), rel=1e-12)
        assert estimates.slope == pytest.approx(rosen_der(x) @ d, rel=1e-10)
        assert estimates.curvature == pytest.approx(d @ rosen_hess(x) @ d, rel=1e-10)
        assert estimates.actual == pytest.approx(rosen(x + d), rel=1e-12)


def test_weights_and_gradients_are_left_alone_bit_for_bit_even_by_a_function_that_raises():
    torch.manual_seed(0)
    w, unused = nn.Parameter(torch.randn(1000)), nn.Parameter(torch.randn(3))
    w.grad = torch.randn(1000)
    before, grad = w.detach().clone(), w.grad.clone()
    d = [torch.randn(1000), torch.ones(3)]
    estimates = taylor_estimates(lambda: w.sin().sum(), [w, unused], d)
    assert estimates.slope == pytest.approx((before.cos() * d[0]).sum().item(), rel=1e-4)  # float32
    calls = []

    def raising():
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError
        return w.sin().sum()

    with pytest.raises(FloatingPointError):
        taylor_estimates(raising, [w, unused], d)
    assert torch.equal(w, before)
    assert torch.equal(w.grad, grad)
    assert unused.grad is None


def test_a_direction_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="its shapes are"):
        taylor_estimates(lambda: torch.zeros(()), [nn.Parameter(vector(1, 2))], [vector(1)])
