"""What looking at curvature leaves as it was, where it falls back, what it refuses; curvlinops as a witness."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import Flatten, Problem, Residual, buffers, error, flat, numbers
from trainopt.optimizers import Curvature, FastDoubleBackward, hessian_vector_product

TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])
IMAGES = numbers(6, 2, 7, 7)
ROWS = numbers(6, 5)


def ce(outputs):
    return F.cross_entropy(outputs, TARGETS)


def layers():
    """One of each layer that has a second derivative of its own."""
    torch.manual_seed(0)
    return Flatten(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
        nn.Hardtanh(-2, 2),
        nn.Flatten(2),
        nn.Linear(16, 5),
        nn.Conv1d(4, 3, 2),
    )


def convolutional(dtype=torch.float64):
    return Problem(layers().to(dtype), IMAGES.to(dtype), ce)


def multilayer(activation=nn.Tanh):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), activation(), nn.Linear(6, 3))
    return Problem(network.double(), ROWS, ce)


def nodes(tensor):
    """The names of all nodes of a graph."""
    names, seen, queue = set(), set(), [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            names.add(node.name())
            queue.extend(parent for parent, _ in node.next_functions)
    return names


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_layers_are_computed_by_the_functions_of_few_passes():
    problem = convolutional()
    with FastDoubleBackward(quadratic_form=True):
        names = nodes(problem.closure())
    ours = ("Convolution", "Linear", "BatchNorm", "MaxPool2d", "PiecewiseLinear")
    assert {f"{name}Backward" for name in ours} <= names
    assert not {name for name in names if name.startswith(("Native", "ReLU", "Hardtanh", "MaxPool2DWith", "Addmm"))}
    assert "ConvolutionBackward0" not in names  # autograd's own
    assert "ConvolutionBackward0" in nodes(problem.closure())


@pytest.mark.parametrize("training", [True, False])
def test_loss_gradient_and_statistics_are_those_outside(training):
    inside, outside = convolutional(), convolutional()
    inside.network.train(training)
    outside.network.train(training)
    with FastDoubleBackward():
        loss = inside.closure()
    expected = outside.closure()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    actual = torch.autograd.grad(loss, inside.params)
    truth = torch.autograd.grad(expected, outside.params)
    for a, b in zip(actual, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)
    for name, buffer in buffers(inside.network).items():
        torch.testing.assert_close(buffer, buffers(outside.network)[name], rtol=1e-12, atol=0)
    assert same(buffers(inside.network), buffers(convolutional().network)) == (not training)


def test_statistics_are_kept_where_asked_for():
    problem = convolutional()
    before = buffers(problem.network)
    curvature = Curvature(problem.closure, problem.params, keep_statistics=True)
    curvature.matvec(problem.split(problem.weights()))
    assert same(buffers(problem.network), before)
    assert curvature.loss.item() == pytest.approx(convolutional().closure().item(), rel=1e-12)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_weights_gradients_and_random_numbers_are_left_alone(kind):
    problem = convolutional()
    v = problem.split(numbers(problem.weights().numel()))
    for p in problem.params:
        p.grad = torch.full_like(p, 7)
    weights, random, vector = problem.weights(), torch.get_rng_state(), flat(v)
    curvature = Curvature(problem.closure, problem.params, kind)
    statistics = buffers(problem.network)  # as the closure left them
    curvature.matvec(v)
    curvature.quadratic_form(v)
    hessian_vector_product(problem.closure(), problem.params, v)
    assert torch.equal(problem.weights(), weights)
    assert torch.equal(flat(v), vector)
    assert torch.equal(torch.get_rng_state(), random)
    assert all((p.grad == 7).all() for p in problem.params)
    assert not same(buffers(problem.network), statistics)  # hessian_vector_product's loss was a second pass
    assert not curvature.loss.requires_grad
    assert not any(g.requires_grad for g in curvature.gradient)


def test_it_works_where_the_caller_switched_gradients_off():
    problem = convolutional()
    v = numbers(problem.weights().numel())
    with torch.no_grad():
        actual = flat(Curvature(problem.closure, problem.params).matvec(problem.split(v)))
    assert error(actual, problem.hessian() @ v) < 1e-10


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_the_matrix_is_symmetric_and_linear_and_products_do_not_disturb_each_other(kind):
    problem = convolutional()
    n = problem.weights().numel()
    u, v = numbers(n, seed=1), numbers(n, seed=2)
    curvature = Curvature(problem.closure, problem.params, kind)

    def product(vector):
        return flat(curvature.matvec(problem.split(vector)))

    Cu, Cv = product(u), product(v)
    assert torch.equal(product(u), Cu)
    assert (u @ Cv).item() == pytest.approx((v @ Cu).item(), rel=1e-10)
    assert error(product(2 * u - 3 * v), 2 * Cu - 3 * Cv) < 1e-11
    along = curvature.quadratic_form(problem.split(u)).item()
    assert curvature.quadratic_form(problem.split(u)).item() == along == pytest.approx((u @ Cu).item(), rel=1e-10)
    assert torch.equal(product(u), Cu)
    assert not product(0 * u).any()
    short = Curvature(problem.closure, problem.params, kind, quadratic_form_only=True)
    assert short.quadratic_form(problem.split(v)).item() == pytest.approx((v @ Cv).item(), rel=1e-10)


def test_a_gauss_newton_matrix_is_positive_semi_definite_where_the_hessian_is_not():
    problem = convolutional()
    v = problem.split(torch.linalg.eigh(problem.hessian())[1][:, 0])
    assert Curvature(problem.closure, problem.params).quadratic_form(v) < 0
    assert Curvature(problem.closure, problem.params, "gauss_newton").quadratic_form(v) >= 0


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_single_precision_is_near(kind):
    problem, single = convolutional(), convolutional(torch.float32)
    v = numbers(problem.weights().numel(), seed=1)
    expected = flat(Curvature(problem.closure, problem.params, kind).matvec(problem.split(v)))
    actual = flat(Curvature(single.closure, single.params, kind).matvec(single.split(v.float())))
    assert actual.dtype == torch.float32
    assert error(actual.double(), expected) < 1e-4  # float32 has 7 digits, and batch norm loses some


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("short", [False, True])
def test_half_precision_is_left_to_autograd(kind, short):
    problem = convolutional(torch.float32)

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return ce(problem.network(problem.inputs).float())

    with FastDoubleBackward():
        assert not {"ConvolutionBackward", "BatchNormBackward", "LinearBackward"} & nodes(closure())
    curvature = Curvature(closure, problem.params, kind, quadratic_form_only=short)
    v = problem.split(numbers(problem.weights().numel(), seed=1).float())
    assert curvature.quadratic_form(v).isfinite()
    if not short:
        assert all(part.isfinite().all() for part in curvature.matvec(v))
    assert curvature.loss.item() == pytest.approx(convolutional().closure().item(), rel=0.05)  # bfloat16 has two digits


def test_transforms_of_torch_func_pass_through():
    problem = multilayer(nn.ReLU)
    with FastDoubleBackward():
        actual = torch.func.jacrev(torch.func.jacrev(problem.of))(problem.weights())
        gradients = torch.func.vmap(torch.func.grad(problem.of))(torch.stack([problem.weights()] * 2))
    assert error(actual, problem.hessian()) < 1e-12
    assert error(gradients[1], problem.gradient()) < 1e-12


@pytest.fixture(scope="module")
def curvlinops():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies use what torch will drop
        return pytest.importorskip("curvlinops")


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # torch's own
@pytest.mark.parametrize("network", ["mlp", "batch norm of eval mode"])
def test_curvlinops_says_the_same(curvlinops, network):
    problem = multilayer() if network == "mlp" else convolutional()
    problem.network.eval()
    arguments = (problem.network, nn.CrossEntropyLoss(), problem.params, [(problem.inputs, TARGETS)])
    v = numbers(problem.weights().numel(), seed=1)
    for kind, operator in (
        ("hessian", curvlinops.HessianLinearOperator(*arguments)),
        ("gauss_newton", curvlinops.GGNLinearOperator(*arguments)),
    ):
        expected = operator @ v
        actual = flat(Curvature(problem.closure, problem.params, kind).matvec(problem.split(v)))
        assert error(actual, expected) < 1e-10


def test_a_closure_without_a_graph_is_refused():
    problem = multilayer()
    for closure in (
        lambda: 1.5,
        lambda: problem.closure().item(),
        lambda: problem.closure().detach(),
        lambda: None,
    ):
        with pytest.raises(ValueError, match="the closure must return the loss with its graph"):
            Curvature(closure, problem.params)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("short", [False, True])
def test_a_closure_that_calls_backward_is_refused(kind, short):
    problem = convolutional()

    def closure():
        loss = problem.closure()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="the closure must return the loss without calling backward"):
        Curvature(closure, problem.params, kind, quadratic_form_only=short)


def test_gauss_newton_needs_a_loss_function():
    problem = multilayer()
    with pytest.raises(ValueError, match="curvature=gauss_newton: the closure must call a loss function of torch"):
        Curvature(lambda: problem.network(ROWS).logsumexp(1).mean(), problem.params, "gauss_newton")


def test_the_hessian_needs_no_loss_function():
    problem = multilayer()
    problem.loss = lambda outputs: outputs.logsumexp(1).mean()
    v = numbers(problem.weights().numel())
    for short in (False, True):
        actual = Curvature(problem.closure, problem.params, quadratic_form_only=short).quadratic_form(problem.split(v))
        assert actual.item() == pytest.approx((v @ problem.hessian() @ v).item(), rel=1e-10)


@pytest.mark.parametrize("short", [False, True])
def test_outputs_that_enter_the_loss_in_several_ways_count_in_each(short):
    problem = multilayer()
    problem.loss = lambda z: ce(z) + F.mse_loss(z.tanh(), z.detach()) + 0.1 * (z**4).mean() + F.mse_loss(z[:3], z[3:])
    v = numbers(problem.weights().numel())
    actual = Curvature(problem.closure, problem.params, quadratic_form_only=short)
    assert error(flat(actual.gradient), problem.gradient()) < 1e-11
    assert actual.quadratic_form(problem.split(v)).item() == pytest.approx(
        (v @ problem.hessian() @ v).item(), rel=1e-10
    )


@pytest.mark.parametrize(("kind", "short"), [("hessian", False), ("hessian", True), ("gauss_newton", False)])
def test_a_loss_function_of_a_loss_keeps_its_gradient(kind, short):
    problem = multilayer()
    problem.loss = lambda z: F.smooth_l1_loss(ce(z), torch.tensor(0.3, dtype=torch.float64))
    actual = Curvature(problem.closure, problem.params, kind, quadratic_form_only=short)
    assert error(flat(actual.gradient), problem.gradient()) < 1e-11


def test_a_linear_layer_of_one_output_without_a_dimension_for_it():
    out = nn.Parameter(numbers(5))
    x = numbers(6, 5).requires_grad_()
    with FastDoubleBackward():
        loss = (F.linear(x, out) ** 3).sum()
    (actual,) = hessian_vector_product(loss, [out], [numbers(5, seed=1)])
    expected = torch.autograd.functional.hessian(lambda w: ((x @ w) ** 3).sum(), out.detach()) @ numbers(5, seed=1)
    assert error(actual, expected) < 1e-10


@pytest.mark.parametrize("quadratic_form", [False, True])
def test_relu_of_special_numbers_is_that_of_torch(quadratic_form):
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([[-inf, -2.0, -0.0, 0.0, 3.0, inf, nan]], requires_grad=True)
    with FastDoubleBackward(quadratic_form=quadratic_form):
        y = F.relu(x)
    torch.testing.assert_close(y, F.relu(x), rtol=0, atol=0, equal_nan=True)
