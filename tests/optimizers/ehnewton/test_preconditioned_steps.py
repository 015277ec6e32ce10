"""Steps with a preconditioner and in a subspace, vs. dense float64 computations; their state; what is refused."""

import copy
import io
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import Problem, flat, numbers
from trainopt.optimizers import CheckpointDistance, EHNewton
from trainopt.optimizers.ehnewton.subspace import fraction_of_step
from trainopt.optimizers.preconditioners.kronecker import Kronecker

SMALLEST = 1e-5  # eta, beside the damping of K-FAC's factors


def network():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    layers = nn.Conv1d(2, 3, 2, bias=False), norm, nn.Tanh(), nn.Flatten(), nn.Linear(9, 3)
    return nn.Sequential(*layers).double()


def problem(loss=F.cross_entropy, penalty=None, targets=None):
    targets = torch.arange(7) % 3 if targets is None else targets
    return Problem(network(), numbers(7, 2, 4), lambda z: loss(z, targets), penalty)


def repulsion(strength=0.2):
    """A penalty whose second derivatives have both signs."""
    term = CheckpointDistance(strength=strength, sigma=2.0)
    term.snapshot([p + 0.3 for p in problem().params])
    return term


def inverse_of_sum(factor, shift):
    return torch.linalg.inv(factor + shift * torch.eye(len(factor), dtype=torch.float64))


def kronecker_inverse(problem, optimizer, damping):
    """M^-1 as a matrix, from the factors in the state."""
    gamma = (damping + SMALLEST) ** 0.5
    size, blocks, start = len(problem.weights()), {}, 0
    for p in problem.params:
        blocks[p] = torch.arange(start, start + p.numel())
        start += p.numel()
    inverse = torch.zeros(size, size, dtype=torch.float64)
    for m in problem.network:
        if isinstance(m, nn.BatchNorm1d):
            for p in (m.weight, m.bias):
                h = optimizer.state[p]["sampled_curvature"].flatten()
                inverse[blocks[p], blocks[p]] = 1 / (h + gamma**2)
        elif isinstance(m, nn.Conv1d | nn.Linear):
            A, G = (optimizer.state[m.weight][f"{name}_factor"] for name in ("input", "output"))
            pi = ((A.trace() / len(A)) / (G.trace() / len(G))) ** 0.5
            biases = [] if m.bias is None else [blocks[m.bias].unsqueeze(1)]
            at = torch.cat([blocks[m.weight].view(len(G), -1), *biases], 1).flatten()
            block = torch.kron(inverse_of_sum(G, gamma / pi), inverse_of_sum(A, pi * gamma))
            inverse[at.unsqueeze(1), at] = block
    return inverse


def adam_inverse(gradients):
    v = sum(0.001 * 0.999**i * g**2 for i, g in enumerate(reversed(gradients)))
    return torch.diag(1 / ((v / (1 - 0.999 ** len(gradients))).sqrt() + 1e-8))


def krylov_minimum(matrix, inverse, g, iterations):
    """The minimum of g.p + p matrix p / 2 over the span of the first powers of M^-1 matrix on M^-1 g."""
    basis = [inverse @ g]
    for _ in range(iterations - 1):
        basis.append(inverse @ (matrix @ basis[-1]))
    K = torch.linalg.qr(torch.stack(basis, 1))[0]
    return -K @ torch.linalg.solve(K.T @ matrix @ K, K.T @ g)


@pytest.mark.parametrize("penalty", [None, pytest.param("repulsion", marks=pytest.mark.slow)])
@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize("subspace", [pytest.param("none", marks=pytest.mark.slow), "last_step"])
@pytest.mark.parametrize("preconditioner", [pytest.param("none", marks=pytest.mark.slow), "diagonal", "kronecker"])
def test_steps_are_those_of_dense_matrices(preconditioner, subspace, iterations, penalty):
    one = problem(penalty=penalty and repulsion())
    damping = 0.3
    optimizer = EHNewton(
        one.params,
        lr=0.5,
        damping=damping,
        cg_max_iter=iterations,
        cg_tol=1e-12,
        curvature="gauss_newton",
        preconditioner=preconditioner,
        subspace=subspace,
    )
    gradients, s = [], None
    for _ in range(3):
        before, g, C = one.weights(), one.gradient(), one.gauss_newton()
        gradients.append(g)
        matrix = C + damping * torch.eye(len(g), dtype=torch.float64)
        optimizer.step(one.closure)
        step = one.weights() - before
        inverse = {
            "none": lambda g=g: torch.eye(len(g), dtype=torch.float64),
            "diagonal": lambda: adam_inverse(gradients),
            "kronecker": lambda: kronecker_inverse(one, optimizer, damping) if len(gradients) < 3 else None,
        }[preconditioner]()
        if inverse is None:  # the third step has the inverses of the second
            continue
        is_plain = preconditioner == subspace == "none"
        d = krylov_minimum(matrix, inverse, g, iterations)
        if is_plain and not g @ d <= -damping:
            d = -g
        if subspace == "last_step":
            directions = torch.stack([d] if s is None else [d, s], 1)
            coefficients = torch.linalg.solve(directions.T @ matrix @ directions, -directions.T @ g)
            d = directions @ coefficients
            if iterations > 1:
                assert optimizer.last_step["alpha"] == pytest.approx(coefficients[0].item(), rel=1e-6)
            assert optimizer.last_step["beta"] == pytest.approx(0 if s is None else coefficients[1].item(), rel=1e-6)
        torch.testing.assert_close(step, 0.5 * d, rtol=1e-8, atol=1e-11)
        assert optimizer.last_step["directional_derivative"] == pytest.approx((g @ d).item(), rel=1e-8)
        s = step


@pytest.mark.parametrize("concavity", [0.0, 0.15])
def test_steps_between_have_the_curvature_of_running_means(concavity):
    """Of dense matrices at steps 1 to 5, 9 and 13; a concave penalty lets the model bend down."""
    one, damping, lr = problem(penalty=lambda params: -concavity * sum((p**2).sum() for p in params)), 0.1, 0.5
    options = {"curvature": "gauss_newton", "subspace": "last_step", "cg_max_iter": 1}
    optimizer = EHNewton(one.params, lr, damping=damping, subspace_every=4, **options)
    s, kappa, rho, sigma = torch.zeros(len(one.weights()), dtype=torch.float64), None, 0.0, 0.0
    signs = set()
    for step in range(1, 15):
        before, g = one.weights(), one.gradient()
        p = one.network(one.inputs).detach().softmax(1)
        trace = (1 - (p * p).sum(1)).mean().item()  # of the second derivatives at the outputs
        directions = torch.stack([-g, s], 1)[:, : 1 if step == 1 else 2]
        if is_computed := step <= 5 or step in (9, 13):
            Q = directions.T @ one.gauss_newton() @ directions
            new = (Q[0, 0] / (g @ g)).item() / trace
            weight = max(1 / max(step - 1, 1), 0.2)
            kappa = kappa + weight * (new - kappa) if step > 1 and min(kappa, new) > 0 else new
            if step > 1 and Q[0, 0] * Q[1, 1] > 0:
                rho += weight * ((Q[0, 1] / (Q[0, 0] * Q[1, 1]).sqrt()).item() - rho)
            signs.add(new > 0)
        else:
            along, of_step = kappa * (g @ g).item() * trace, sigma * trace
            mixed = rho * max(along * of_step, 0) ** 0.5
            Q = torch.tensor([[along, mixed], [mixed, of_step]], dtype=torch.float64)
        A, b = Q + damping * directions.T @ directions, -directions.T @ g
        has_minimum = A[0, 0] > 0
        both = has_minimum and step > 1 and torch.linalg.eigvalsh(A)[0] > 0
        alone = b[0] / A[0, 0] if has_minimum else 1.0
        c = torch.linalg.solve(A, b) if both else torch.tensor([alone, 0.0], dtype=torch.float64)[: len(b)]
        optimizer.step(one.closure)
        s = one.weights() - before
        torch.testing.assert_close(s, lr * directions @ c, rtol=1e-7, atol=1e-11)
        sigma = lr**2 * (c @ Q @ c).item() / trace
        assert optimizer.last_step["hvps"] == is_computed * len(b)
        assert (optimizer.last_step["gradient_equivalents"] > 0) == is_computed
    assert signs == ({True, False} if concavity else {True})


def test_the_third_step_has_the_inverses_of_the_second_and_running_means_of_factors():
    one = problem()
    optimizer = EHNewton(one.params, curvature="gauss_newton", preconditioner="kronecker", cg_max_iter=1, lr=0.0)
    weight = one.network[0].weight
    factors, inverses, of_batch = [], [], []
    for step in range(1, 9):
        optimizer.step(one.closure)
        factors.append(optimizer.state[weight]["output_factor"].clone())
        inverses.append(optimizer.state[weight]["input_inverse"].clone())
        w = 1 / step
        of_batch.append(factors[-1] if step == 1 else (factors[-1] - (1 - w) * factors[-2]) / w)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(inverses)]
    assert changed == [True, False, True, False, False, True, False]  # at steps 2, 4 and 7
    torch.testing.assert_close(factors[-1], torch.stack(of_batch).mean(0))
    assert len({m.sum().item() for m in of_batch}) == 8  # other targets in each step
    assert all((torch.linalg.eigvalsh(m) > -1e-12).all() for m in of_batch)


class Tied(nn.Module):
    """Linear layers, one of whose weights is used once more; or called twice; or whose bias is."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.first, self.second = kind, nn.Linear(40, 30), nn.Linear(30, 40)

    def forward(self, x):
        y = self.second(self.first(x).tanh())
        if self.kind == "weight":
            return y + x @ self.first.weight.t() @ self.second.weight.t()
        if self.kind == "twice":
            return self.second(self.first(y).tanh())
        return y * self.first.bias.sum() if self.kind == "bias" else y


def step_of(kind, penalty, is_cheaper):
    """Weights after a step, and what it cost, with a rule for solving by rows."""
    torch.manual_seed(0)
    one = Problem(Tied(kind).double(), numbers(6, 40), lambda z: F.cross_entropy(z, torch.arange(6)), penalty)
    optimizer = EHNewton(one.params, 1.0, curvature="gauss_newton", preconditioner="kronecker", cg_max_iter=1)

    def closure():
        for p in one.params:
            p.grad = None  # as closures begin; no use of the weight
        return one.closure()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kronecker, "_is_cheaper_by_rows", is_cheaper)
        optimizer.step(closure)
    return one.weights(), optimizer.last_step["gradient_equivalents"]


@pytest.mark.parametrize("penalty", [None, lambda params: sum((p**2).sum() for p in params)])
@pytest.mark.parametrize(("kind", "layers"), [("once", 2), ("weight", 0), ("twice", 0), ("bias", 1)])
def test_a_small_batch_is_solved_by_rows_with_the_same_result(kind, layers, penalty):
    """Where weights or biases are used elsewhere, or penalized, rows would leave out a part of the gradient."""
    rule, solved = Kronecker._is_cheaper_by_rows, []

    def counted(self, weight):
        solved.append(rule(self, weight))
        return solved[-1]

    weights, cost = step_of(kind, penalty, counted)
    expected, dense_cost = step_of(kind, penalty, lambda self, weight: False)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-11)
    assert solved == [True] * (layers if penalty is None else 0)
    assert (cost < dense_cost) == any(solved)


@pytest.mark.parametrize(
    ("loss", "targets", "factor"),
    [
        (F.cross_entropy, None, 1.0),
        (F.mse_loss, numbers(7, 3), 1 / 3),
        (lambda z, t: 5 * F.binary_cross_entropy_with_logits(z, t, reduction="none").sum(1).mean(), numbers(7, 3), 5.0),
        (lambda z, t: F.mse_loss(z, t, None, None, "sum"), numbers(7, 3), 7.0),
    ],
)
def test_the_damping_of_an_output_follows_the_scale_of_the_loss(loss, targets, factor):
    options = {"curvature": "gauss_newton", "cg_max_iter": 1, "preconditioner": "kronecker", "subspace": "last_step"}
    per_output, plain = problem(loss, targets=targets), problem(loss, targets=targets)
    optimizers = [
        EHNewton(per_output.params, 1.0, damping=0.2, damping_per_output=True, **options),
        EHNewton(plain.params, 1.0, damping=0.2 * factor, **options),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainopt.optimizers.ehnewton.step.SMALLEST_DAMPING", 0.0)
        for _ in range(3):
            for optimizer, one in zip(optimizers, (per_output, plain), strict=True):
                optimizer.step(one.closure)
    torch.testing.assert_close(per_output.weights(), plain.weights(), rtol=1e-9, atol=1e-12)


def test_a_step_promises_no_loss_below_the_floor():
    options = {"curvature": "gauss_newton", "preconditioner": "kronecker", "subspace": "last_step", "cg_max_iter": 1}
    one, room = problem(), 0.01
    optimizer = EHNewton(one.params, 1.0, damping=0.1, loss_floor=0.0, **options)
    for _ in range(3):
        before, g, loss = one.weights(), one.gradient(), one.closure().item()
        matrix = one.gauss_newton() + 0.1 * torch.eye(len(g), dtype=torch.float64)
        steps = []
        for floor in (None, loss - 100 * room, loss - room):
            other = problem()
            other.network.load_state_dict(one.network.state_dict())
            copied = EHNewton(other.params, 1.0, damping=0.1, **options)
            copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            copied.param_groups[0]["loss_floor"] = floor
            copied.step(other.closure)
            steps.append(other.weights() - before)
        whole, far, step = steps
        assert torch.equal(far, whole)
        assert (whole @ step) / (whole.norm() * step.norm()) == pytest.approx(1, abs=1e-12)
        assert step.norm() < whole.norm()
        torch.testing.assert_close(
            g @ step + step @ matrix @ step / 2, torch.tensor(-room, dtype=torch.float64), rtol=1e-9, atol=0
        )
        assert copied.last_step["directional_derivative"] == pytest.approx((g @ step).item(), rel=1e-9)
        optimizer.step(one.closure)
    before = one.weights()
    optimizer.param_groups[0]["loss_floor"] = 100.0
    with pytest.raises(ValueError, match="loss_floor=100.0: the loss is "):
        optimizer.step(one.closure)
    assert torch.equal(one.weights(), before)


def test_the_part_of_a_step_is_the_same_on_a_device():
    for decrease, most in ((3.0, 1.0), (1.0, 1.0), (0.5, 1.0), (0.0, 0.0), (2.0, 0.0), (1e6, 1e-3)):
        on_host = fraction_of_step(decrease, most)
        on_device = fraction_of_step(*(torch.tensor(x, dtype=torch.float64) for x in (decrease, most)))
        assert on_device.item() == on_host
        assert (2 * on_host - on_host**2) * decrease <= most * (1 + 1e-6)


@pytest.mark.parametrize("every", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("preconditioner", [pytest.param("diagonal", marks=pytest.mark.slow), "kronecker"])
def test_a_resumed_optimizer_goes_on_bitwise(preconditioner, every):
    options = {"curvature": "gauss_newton", "preconditioner": preconditioner, "subspace": "last_step", "cg_max_iter": 1}
    options["subspace_every"] = every
    one = problem()
    optimizer = EHNewton(one.params, 1.0, **options)
    for _ in range(5):
        optimizer.step(one.closure)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    other = problem()
    other.network.load_state_dict(copy.deepcopy(one.network.state_dict()))
    resumed = EHNewton(other.params, 1.0, **options)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(1)  # random numbers are not those of the program
    for _ in range(17):  # past the next inverses
        torch.rand(3)
        assert optimizer.step(one.closure).item() == resumed.step(other.closure).item()
    assert torch.equal(flat(one.params), flat(other.params))


def test_the_state_has_the_size_that_is_stated():
    """A layer has two matrices of order in (+ 1 with a bias) and two of order out, another parameter one number; three
    are of the estimate."""
    one = problem()
    options = {"curvature": "gauss_newton", "preconditioner": "kronecker", "subspace": "last_step", "cg_max_iter": 1}
    optimizer = EHNewton(one.params, 1.0, subspace_every=5, **options)
    optimizer.step(one.closure)
    tensors = [t for of_param in optimizer.state.values() for t in of_param.values() if isinstance(t, torch.Tensor)]
    layers = 2 * (4**2 + 3**2) + 2 * (10**2 + 3**2)
    assert sum(t.numel() for t in tensors) == layers + 6 + len(one.weights()) + 3


@pytest.mark.parametrize(
    "options", [{"preconditioner": "kronecker"}, {"preconditioner": "diagonal"}, {"subspace_every": 4}]
)
def test_a_gradient_that_is_not_finite_changes_nothing(options):
    one = problem()
    optimizer = EHNewton(one.params, 1.0, curvature="gauss_newton", subspace="last_step", cg_max_iter=1, **options)
    optimizer.step(one.closure)
    before, state = one.weights(), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(FloatingPointError):
        optimizer.step(lambda: one.closure() * float("inf"))
    assert torch.equal(one.weights(), before)
    after = optimizer.state_dict()["state"]
    for i, of_param in state["state"].items():
        assert of_param.keys() == after[i].keys()
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(after[i][k])) for k, v in of_param.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preconditioner": "kfac"}, "preconditioner=kfac: must be one of none, diagonal, kronecker"),
        ({"subspace": "two"}, "subspace=two: must be one of none, last_step"),
        ({"preconditioner": "kronecker"}, "preconditioner=kronecker: .* give curvature=gauss_newton"),
        ({"subspace": "last_step"}, "subspace=last_step: .* give curvature=gauss_newton"),
        ({"damping_per_output": True}, "damping_per_output=true: .* give curvature=gauss_newton"),
        ({"loss_floor": 0.0}, "loss_floor=0.0: bounds the step in a subspace; give subspace=last_step"),
        ({"subspace_every": 5}, "subspace_every=5: is of steps in a subspace; give subspace=last_step"),
        ({"subspace_every": 0}, "subspace_every=0: must be an integer >= 1"),
        ({"loss_floor": float("inf")}, "loss_floor=inf: must be a finite number, or None"),
        ({"preconditioner": "diagonal", "blocks": "parameter"}, "preconditioner=diagonal: .* give blocks=all"),
        (
            {"subspace": "last_step", "curvature": "gauss_newton", "momentum": 0.9},
            "subspace=last_step: computes the momentum itself; give momentum=0",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EHNewton(network().parameters(), **options)
