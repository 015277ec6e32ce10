"""EHNewton's closed form on linear softmax classifiers against dense matrices, and when it is taken."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from helpers.references import Problem, error, numbers
from trainopt.optimizers import L2, EHNewton

CLASSES = 5
TAU = 0.5  # with less of it 20 iterations amplify rounding a million times, whoever computes them
TARGETS = torch.tensor([0, 2, 1, 1, 4, 2, 3, 1])
PROBABILITIES = numbers(8, CLASSES).abs()  # rows with different sums
L2_OF = {"none": None, "l2": 0.05}


class Classifiers(nn.Module):
    """Linear layers, each on an input of its own; `hidden` writes them so that they are not known as such."""

    def __init__(self, features, bias=True, hidden=False):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(D, CLASSES, bias=bias) for D in features).double()
        self.hidden = hidden

    def forward(self, inputs):
        return tuple(self.logits(layer, x) for layer, x in zip(self.layers, inputs, strict=True))

    def logits(self, layer, x):
        if not self.hidden:
            return layer(x)
        z = x @ layer.weight.t()
        return z if layer.bias is None else z + layer.bias


def problem(features=(20,), bias=True, l2=None, hidden=False, targets=TARGETS, factors=(1.0, 0.4), **options):
    """`options` are those of the cross-entropy."""
    inputs = [numbers(len(targets), D, seed=i) for i, D in enumerate(features)]
    penalty = L2(l2) if l2 else None

    def loss(logits):
        terms = (c * F.cross_entropy(z, targets, **options) for c, z in zip(factors, logits, strict=False))
        return sum(terms)

    network = Classifiers(features, bias, hidden)
    return Problem(network, inputs, loss, penalty and (lambda ps: penalty([p for p in ps if p.dim() == 2])))


def truth(case, tau, iterations, tol=0.0):
    """p, and what the report must say of it, by textbook conjugate gradients on the dense Hessian."""
    return solution(case.hessian().numpy(), case.gradient().numpy(), tau, iterations, tol)


def solution(hessian, gradient, tau, iterations, tol=0.0, part=slice(None)):
    """The same for a part of the parameters, from the dense derivatives with respect to all."""
    tau = np.broadcast_to(tau, gradient.shape)[part]
    A, g = hessian[part, part] + np.diag(tau), gradient[part]
    p, r, d, made = np.zeros_like(g), -g, -g, 0
    while np.linalg.norm(r) > tol and made < iterations:
        alpha = r @ r / (d @ A @ d)
        p, new = p + alpha * d, r - alpha * A @ d
        d, r, made = new + new @ new / (r @ r) * d, new, made + 1
    fell_back = g @ p > -tau.min()
    if fell_back:
        p = -g
    residual = np.linalg.norm(g if iterations == 1 else r)
    return p, {
        "cg_iterations": made,
        "hvps": made,
        "residual": pytest.approx(residual, rel=1e-4, abs=1e-10),
        "fallbacks": int(fell_back),
        "negative_curvature": 0,
        "directional_derivative": pytest.approx(g @ p, rel=1e-8),
    }


def stepped(case, **options):
    """The change of the weights by a step, and its report without what it cost."""
    optimizer = EHNewton(case.params, **{"lr": 1.0, "damping": TAU, "cg_tol": 0.0, **options})
    before = case.weights()
    optimizer.step(case.closure)
    report = {k: v for k, v in optimizer.last_step.items() if k != "gradient_equivalents"}
    return case.weights() - before, report


CASES = {
    "wide": {},
    "tall": {"features": (4,)},
    "without bias": {"bias": False},
    "tall without bias": {"features": (4,), "bias": False},
    "label smoothing": {"label_smoothing": 0.1},
    "a sum": {"reduction": "sum", "factors": (0.1,)},
    "probabilities": {"targets": PROBABILITIES},
    "probabilities smoothed, tall": {"targets": PROBABILITIES, "label_smoothing": 0.2, "features": (4,)},
    "two": {"features": (20, 9)},
    "two, one of them tall": {"features": (20, 4), "bias": False, "label_smoothing": 0.1},
}


@pytest.mark.quick_every(3)
@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("l2", L2_OF.values(), ids=L2_OF)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_step_is_that_of_conjugate_gradients_on_the_dense_hessian(case, l2, iterations):
    case = problem(l2=l2, **case)
    expected, of_report = truth(case, TAU, iterations)
    change, report = stepped(case, lr=0.7, cg_max_iter=iterations)
    assert error(change, torch.from_numpy(0.7 * expected)) < 1e-8
    assert report == {**of_report, "step_length": pytest.approx(0.7 * np.linalg.norm(expected), rel=1e-8)}


@pytest.mark.quick_every(3)
@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("l2", L2_OF.values(), ids=L2_OF)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_with_a_system_for_each_parameter_each_is_solved_by_itself(case, l2, iterations):
    case = problem(l2=l2, **case)
    ends = np.cumsum([0, *(p.numel() for p in case.params)])
    derivatives = case.hessian().numpy(), case.gradient().numpy()
    parts = [slice(*ends[i : i + 2]) for i in range(len(case.params))]
    blocks = [solution(*derivatives, TAU, iterations, tol=1e-4, part=part) for part in parts]
    change, report = stepped(case, lr=0.7, cg_max_iter=iterations, cg_tol=1e-4, blocks="parameter")
    assert error(change, torch.from_numpy(0.7 * np.concatenate([p for p, _ in blocks]))) < 1e-8
    for name in ("hvps", "fallbacks"):
        assert report[name] == sum(of_report[name] for _, of_report in blocks)
    assert report["cg_iterations"] == max(of_report["cg_iterations"] for _, of_report in blocks)


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("curvature", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("features", [(20,), (4,)])
def test_with_enough_iterations_it_is_the_damped_newton_step(features, curvature):
    case = problem(features, l2=0.05)
    A, g = case.hessian() + torch.diag(0.1 * torch.ones_like(case.weights())), case.gradient()
    change, report = stepped(case, damping=0.1, cg_max_iter=200, cg_tol=1e-12, curvature=curvature)
    assert error(change, -torch.linalg.solve(A, g)) < 1e-9
    assert report["residual"] <= 1e-12


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("relative", [False, True])
def test_it_stops_where_the_tolerance_says(relative):
    case = problem(l2=0.05)
    tol = 1e-3 * (case.gradient().norm().item() if relative else 1)
    expected, of_report = truth(case, TAU, 50, tol)
    change, report = stepped(case, cg_max_iter=50, cg_tol=1e-3, cg_tol_relative=relative)
    assert 1 < report["cg_iterations"] < 50
    assert report == {**of_report, "step_length": pytest.approx(np.linalg.norm(expected))}
    assert error(change, torch.from_numpy(expected)) < 1e-9


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("features", [(20,), (4,)])
def test_groups_have_dampings_and_rates_of_their_own(features, iterations):
    case = problem(features, l2=0.05)
    weight, bias = case.params
    both = lambda a, b: np.repeat([a, b], [weight.numel(), bias.numel()])  # noqa: E731
    expected, _ = truth(case, both(TAU, 0.8), iterations)
    groups = [{"params": [bias], "lr": 0.3, "damping": 0.8}, {"params": [weight], "lr": 0.7}]
    before = case.weights()
    EHNewton(groups, damping=TAU, cg_tol=0.0, cg_max_iter=iterations).step(case.closure)
    assert error(case.weights() - before, torch.from_numpy(both(0.7, 0.3) * expected)) < 1e-8


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("features", [(20,), (4,)])
def test_a_step_too_flat_to_be_feasible_is_one_of_gradient_descent(features, iterations):
    case = problem(features, l2=1e-3, factors=(0.01,))
    expected, of_report = truth(case, 1.0, iterations)
    change, report = stepped(case, damping=1.0, cg_max_iter=iterations)
    assert report["fallbacks"] == of_report["fallbacks"] == 1
    assert error(change, torch.from_numpy(expected)) < 1e-10


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("trained", ["weight", "everything but a second layer"])
def test_what_is_not_trained_stays(trained):
    case = problem((20, 9), l2=0.05)
    frozen = [case.network.layers[0].bias] if trained == "weight" else [*case.network.layers[1].parameters()]
    for p in frozen:
        p.requires_grad_(False)
    frozen_before = [p.clone() for p in frozen]
    part = Problem(case.network, case.inputs, case.loss, case.penalty)
    expected, _ = truth(part, TAU, 20)
    optimizer = EHNewton(case.network.parameters(), lr=1.0, damping=TAU, cg_tol=0.0)
    before = part.weights()
    optimizer.step(part.closure)
    assert error(part.weights() - before, torch.from_numpy(expected)) < 1e-8
    assert all(torch.equal(p, b) for p, b in zip(frozen, frozen_before, strict=True))


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
def test_rows_that_depend_on_each_other_are_no_trouble(iterations):
    case = problem(l2=0.05)
    case.inputs[0][3] = case.inputs[0][5]
    case.inputs[0][6] = 0
    case.inputs[0][7] = case.inputs[0][0] - 2 * case.inputs[0][1]
    expected, _ = truth(case, TAU, iterations)
    assert error(stepped(case, cg_max_iter=iterations)[0], torch.from_numpy(expected)) < 1e-8


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
def test_gradients_that_cancel_out_make_no_step(iterations):
    """The features of each class add up to zero, and classes are as likely: so is the gradient, but for rounding."""
    for seed in range(10):
        a, b = numbers(2, 8, 256, seed=seed).float().unbind()
        inputs, targets = torch.cat([a, b, -a - b]), torch.arange(8).repeat(3)
        layer = nn.Linear(256, 64, bias=False)
        nn.init.zeros_(layer.weight)
        optimizer = EHNewton(layer.parameters(), damping=TAU, cg_max_iter=iterations)
        optimizer.step(lambda layer=layer, x=inputs, y=targets: F.cross_entropy(layer(x), y))
        assert layer.weight.abs().max() < 1e-5


@pytest.mark.usefixtures("only_closed_form")
def test_of_inputs_that_are_all_zero_only_the_bias_learns():
    case = problem()
    case.inputs[0].zero_()
    expected, _ = truth(case, 0.01, 20)
    change, _ = stepped(case, damping=0.01)
    assert error(change, torch.from_numpy(expected)) < 1e-10
    assert not change[: 20 * CLASSES].any()


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("features", [20, 4])
def test_a_gradient_that_is_not_finite_leaves_the_weights_as_they_are(features, iterations):
    case = problem((features,))
    case.inputs[0][2, 1] = float("inf")
    before = case.weights()
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        stepped(case, cg_max_iter=iterations)
    assert torch.equal(case.weights(), before)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("features", [60, 12])
def test_in_single_precision_it_is_as_near_the_truth_as_the_general_way(features, iterations):
    """Features as a network's: not negative, with a large common part."""
    targets = torch.arange(16) % CLASSES

    def loss(logits):
        return F.cross_entropy(logits[0], targets)

    def distances(seed):
        """Of the closed form from the truth, and of the general way."""
        inputs = (numbers(16, features, seed=seed) + 2).relu()
        exact = Problem(Classifiers((features,)), [inputs], loss)
        expected = torch.from_numpy(truth(exact, TAU, iterations)[0])
        for hidden in (False, True):
            single = Problem(Classifiers((features,), hidden=hidden).float(), [inputs.float()], loss)
            yield error(stepped(single, cg_max_iter=iterations)[0], expected)

    closed, general = np.median([tuple(distances(seed)) for seed in range(7)], axis=0)
    assert closed < 1.5 * general + 1e-6


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("iterations", [1, 20])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("features", [(20,), (4,), (20, 4)])
@pytest.mark.parametrize("blocks", ["all", "parameter"])
def test_several_steps_go_where_the_general_ones_go(forms, features, momentum, iterations, blocks):
    def walk(case):
        weights, biases = ([p for p in case.params if p.dim() == n] for n in (2, 1))
        groups = [{"params": weights, "momentum": momentum}, {"params": biases, "lr": 0.2, "damping": 0.8}]
        optimizer = EHNewton(groups, lr=0.7, damping=TAU, cg_max_iter=iterations, cg_tol=1e-6, blocks=blocks)
        reports = []
        for _ in range(4):
            optimizer.step(case.closure)
            reports.append({k: v for k, v in optimizer.last_step.items() if k != "gradient_equivalents"})
        return case.weights(), reports

    with forms["closed"]():
        weights, of_closed_form = walk(problem(features, l2=0.02, label_smoothing=0.1))
    with forms["general"]():
        expected, reports = walk(problem(features, l2=0.02, label_smoothing=0.1, hidden=True))
    assert error(weights, expected) < 1e-8
    assert of_closed_form == [pytest.approx(report, rel=1e-6, abs=1e-10) for report in reports]


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 20])
def test_a_program_of_ones_own_with_dropout_on_frozen_features(iterations):
    """The mask is drawn once: by the closure, which is called once."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.5)).double().requires_grad_(False)
    classifier, criterion, images = nn.Linear(20, CLASSES).double(), nn.CrossEntropyLoss(), numbers(8, 6)
    called = []

    def closure():
        called.append(True)
        return criterion(classifier(backbone(images)), TARGETS)

    torch.manual_seed(7)
    masked = Problem(nn.Sequential(classifier), backbone(images), lambda z: F.cross_entropy(z, TARGETS))
    after = torch.get_rng_state()
    expected, _ = truth(masked, TAU, iterations)
    loss, before = masked.closure().item(), masked.weights()
    optimizer = EHNewton(classifier.parameters(), lr=1.0, damping=TAU, cg_max_iter=iterations, cg_tol=0.0)
    torch.manual_seed(7)
    assert optimizer.step(closure).item() == pytest.approx(loss, rel=1e-12)
    assert torch.equal(torch.get_rng_state(), after)
    assert called == [True]
    assert error(masked.weights() - before, torch.from_numpy(expected)) < 1e-8
    assert classifier.weight.grad is None


def test_a_closure_that_called_backward_is_refused():
    case = problem()

    def closure():
        loss = case.closure()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="must return the loss without calling backward"):
        EHNewton(case.params).step(closure)


@pytest.mark.usefixtures("only_closed_form")
@pytest.mark.parametrize("iterations", [1, 7])
def test_a_step_costs_what_its_products_multiply(iterations):
    n, D, C = 8, 40, CLASSES
    case = problem((D,))
    optimizer = EHNewton(case.params, cg_max_iter=iterations, cg_tol=0.0)
    optimizer.step(case.closure)
    gradient = 2 * n * D * C
    products = iterations + 2 if iterations > 1 else 1  # with X X^T
    expected = (n * n * D + products * n * n * C) / gradient
    rows_pay = expected < (iterations if iterations > 1 else 1 / 2)
    assert rows_pay == (iterations > 1)
    cost = optimizer.last_step["gradient_equivalents"]
    assert cost == pytest.approx(expected if rows_pay else 1 / 2)


class Large(TorchDispatchMode):
    """Counts operations that read or write something as large as the weights."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [t.numel() for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor)]
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.count += any(size >= self.size for size in sizes)
        return result


@pytest.mark.usefixtures("only_closed_form")
def test_iterations_touch_nothing_as_large_as_the_weights():
    """Only the logits and the change of the weights do."""
    for iterations in (2, 20):
        case = problem((200,))
        optimizer = EHNewton(case.params, cg_max_iter=iterations, cg_tol=0.0)
        with Large(200 * CLASSES) as large:
            optimizer.step(case.closure)
        assert optimizer.last_step["cg_iterations"] == iterations
        assert large.count - 2 <= 3  # and X X^T, and the features themselves on the way
