"""The hills on snapshots against equations 2.4, 2.8, 2.9 and 2.18 of von Bachmann 2020, in float64."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.references import Problem, error, flat, numbers
from trainopt.optimizers import CheckpointDistance, Curvature, EHNewton, hessian_vector_product
from trainopt.runner.state.objective import covered_parameters

TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])


def parameters(seed=0):
    """Three tensors, 11 numbers."""
    return [numbers(2, 3, seed=seed).requires_grad_(), numbers(4, seed=seed + 1).requires_grad_(),
            numbers(1, seed=seed + 2).requires_grad_()]  # fmt: skip


def moved(params, by, seed=7):
    """Copies, `by` away in a direction that is drawn."""
    directions = [numbers(*p.shape, seed=seed + i) for i, p in enumerate(params)]
    norm = flat(directions).norm()
    return [(p + by * d / norm).detach().requires_grad_() for p, d in zip(params, directions, strict=True)]


def written_out(params, snapshots, s, sigma):
    """The sum of equation 2.8, tensor by tensor, as a graph of plain operations."""
    total = 0.0
    for snapshot in snapshots:
        squared = sum(((p - c) ** 2).sum() for p, c in zip(params, snapshot, strict=True))
        total = total + s * torch.exp(-squared / (2 * sigma**2))
    return total


def test_the_value_is_s_at_the_snapshot_and_0_far_away():
    params = parameters()
    penalty = CheckpointDistance(strength=0.7, sigma=0.5)
    penalty.snapshot(params)
    assert penalty(params).item() == 0.7
    far = moved(params, 1e4)
    value = penalty(far)
    assert value.item() == 0.0
    assert all((g == 0).all() for g in torch.autograd.grad(value, far))
    assert penalty(moved(params, 0.5)).item() == pytest.approx(0.7 * math.exp(-0.5), rel=1e-12)


def test_without_a_snapshot_or_strength_the_term_is_0_and_has_no_graph():
    params, penalty = parameters(), CheckpointDistance()
    assert penalty(params).shape == ()
    assert (penalty(params).item(), penalty(params).requires_grad, len(penalty)) == (0.0, False, 0)
    penalty.snapshot(params)
    penalty.strength = 0.0
    assert (penalty(params).item(), penalty(params).requires_grad, len(penalty)) == (0.0, False, 1)


def test_the_gradient_is_equation_2_18_and_that_of_finite_differences():
    start, s, sigma = parameters(), 1.3, 0.8
    penalty = CheckpointDistance(strength=s, sigma=sigma)
    penalty.snapshot(start)
    params = moved(start, 0.6)
    actual = torch.autograd.grad(penalty(params), params)
    pull = s / sigma**2 * math.exp(-(0.6**2) / (2 * sigma**2))
    for p, c, g in zip(params, start, actual, strict=True):
        assert torch.allclose(g, pull * (c - p), rtol=1e-12)
    assert torch.autograd.gradcheck(lambda *p: penalty(p), params)
    assert torch.autograd.gradgradcheck(lambda *p: penalty(p), params)


def test_several_snapshots_add_up():
    snapshots = [parameters(), moved(parameters(), 0.4), moved(parameters(), 0.9, seed=3)]
    penalty = CheckpointDistance(strength=0.4, sigma=0.7)
    for snapshot in snapshots:
        penalty.snapshot(snapshot)
    params = moved(parameters(), 0.3, seed=20)
    truth = written_out(params, snapshots, 0.4, 0.7)
    assert penalty(params).item() == pytest.approx(truth.item(), rel=1e-12)
    actual, right = torch.autograd.grad(penalty(params), params), torch.autograd.grad(truth, params)
    assert error(flat(actual), flat(right)) < 1e-12
    alone = []
    for snapshot in snapshots:
        one = CheckpointDistance(strength=0.4, sigma=0.7)
        one.snapshot(snapshot)
        alone.append(one(params).item())
    assert penalty(params).item() == pytest.approx(sum(alone), rel=1e-12)


@pytest.mark.parametrize("count", [1, 3])
def test_products_with_the_hessian_are_those_of_the_dense_one(count):
    snapshots = [moved(parameters(), 0.2 * i, seed=30 + i) for i in range(count)]
    penalty = CheckpointDistance(strength=2.0, sigma=0.6)
    for snapshot in snapshots:
        penalty.snapshot(snapshot)
    params, shapes = moved(parameters(), 0.5), [p.shape for p in parameters()]
    sizes = [p.numel() for p in params]

    def of(vector):
        pieces = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        return written_out(pieces, snapshots, 2.0, 0.6)

    dense = torch.autograd.functional.hessian(of, flat(params))
    vectors = [numbers(*shape, seed=40 + i) for i, shape in enumerate(shapes)]
    product = hessian_vector_product(penalty(params), params, vectors)
    assert error(flat(product), dense @ flat(vectors)) < 1e-12
    some = hessian_vector_product(penalty(params), params[1:2], vectors[1:2])  # a block of it
    assert error(flat(some), dense[6:10, 6:10] @ flat(vectors[1:2])) < 1e-12


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_its_curvature_is_part_of_the_objectives(kind):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    before = [p.detach() + 0.05 * numbers(*p.shape) for p in network.parameters()]
    ours, bare = (
        Problem(network, numbers(6, 5), lambda z: cross_entropy(z, TARGETS), term)
        for term in (lambda params: written_out(params, [before], 1.5, 0.9), None)
    )
    penalty = CheckpointDistance(strength=1.5, sigma=0.9)
    penalty.snapshot(before)
    hills = torch.autograd.functional.hessian(ours.of, ours.weights()) - torch.autograd.functional.hessian(
        bare.of, bare.weights()
    )
    vectors = ours.split(numbers(len(ours.weights()), seed=5))

    def closure():
        return bare.closure() + penalty(bare.params)

    actual = flat(Curvature(closure, bare.params, kind).matvec(vectors))
    rest = flat(Curvature(bare.closure, bare.params, kind).matvec(vectors))
    assert error(actual - rest, hills @ flat(vectors)) < 1e-10


def test_at_the_snapshot_the_gradient_is_0_and_the_loss_and_momentum_begin_the_motion():
    params = parameters()
    penalty = CheckpointDistance(strength=5.0, sigma=0.3)
    penalty.snapshot(params)
    assert all((g == 0).all() for g in torch.autograd.grad(penalty(params), params))
    optimizer = torch.optim.SGD(params, lr=0.01)
    distances = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = 0.1 * params[1].sum() + penalty(params)
        loss.backward()
        optimizer.step()
        distances.append(penalty.distances(params).item())
    assert distances[0] == pytest.approx(0.01 * 0.1 * 2, rel=1e-9)  # of the loss alone: four slopes of 0.1
    steps = [b - a for a, b in zip([0.0, *distances], distances, strict=False)]
    assert steps == sorted(steps)  # the hill pushes harder from step to step


@pytest.mark.parametrize("units", ["snapshot_norm", "root_parameters"])
def test_a_relative_width_means_the_same_on_another_size_of_network(units):
    """Every weight is moved by the same share: the value is that of a network 400 times as large."""
    values = {}
    for units_now in (units, "absolute"):
        for size in (100, 40_000):
            theta = numbers(size).sign() * 0.3  # of equal size, so that the norm is 0.3 sqrt(n)
            penalty = CheckpointDistance(strength=1.0, sigma=0.5, units=units_now)
            penalty.snapshot([theta])
            values[units_now, size] = penalty([1.2 * theta]).item()
    assert values[units, 100] == pytest.approx(values[units, 40_000], rel=1e-9)
    relative = 0.2 if units == "snapshot_norm" else 0.2 * 0.3
    assert values[units, 100] == pytest.approx(math.exp(-(relative**2) / (2 * 0.5**2)), rel=1e-9)
    assert values["absolute", 100] > 1e10 * values["absolute", 40_000]


def test_each_snapshot_has_the_width_of_its_own_norm():
    penalty = CheckpointDistance(sigma=0.1, units="snapshot_norm")
    for norm in (3.0, 5.0):
        penalty.snapshot([torch.tensor([norm, 0.0])])
    assert penalty.widths.tolist() == pytest.approx([0.3, 0.5])


def test_at_most_so_many_are_kept_and_the_oldest_goes():
    penalty = CheckpointDistance(keep=2)
    for value in (1.0, 2.0, 4.0):
        penalty.snapshot([torch.tensor([value])])
    assert penalty.distances([torch.tensor([10.0])]).tolist() == [8.0, 6.0]
    everything = CheckpointDistance(keep=None)
    for value in range(9):
        everything.snapshot([torch.tensor([float(value)])])
    assert len(everything) == 9


def test_a_snapshot_is_a_copy():
    theta = torch.tensor([1.0, 2.0])
    penalty = CheckpointDistance()
    penalty.snapshot([theta])
    theta += 3.0
    assert penalty.distances([theta]).item() == pytest.approx(math.sqrt(18))


def test_the_state_goes_on_in_another_one():
    params = parameters()
    penalty = CheckpointDistance(strength=0.5, sigma=0.2, units="snapshot_norm")
    penalty.snapshot(params)
    penalty.strength = 0.25
    state = copy.deepcopy(penalty.state_dict())
    other = CheckpointDistance(strength=0.5, sigma=0.2, units="snapshot_norm")
    other.load_state_dict(state)
    away = moved(params, 0.3)
    assert other(away).item() == penalty(away).item()
    assert other.strength == 0.25
    state["snapshots"].zero_()
    assert other(away).item() == penalty(away).item()


def test_what_it_reports_is_where_the_loss_was_computed_and_against_the_rest_of_the_gradient():
    start = parameters()
    penalty = CheckpointDistance(strength=2.0, sigma=0.5)
    penalty.snapshot(start)
    penalty.snapshot(moved(start, 1.0, seed=50))
    params = moved(start, 0.4)
    (params[0] ** 3).sum().backward()
    rest = params[0].grad.norm().item()
    for p in params:
        p.grad = None
    value = penalty(params)
    assert "gradient_ratio" not in penalty.report(params, value)  # without gradients
    ((params[0] ** 3).sum() + value).backward()
    distances = penalty.distances(params)
    norm = flat(torch.autograd.grad(penalty(params), params)).norm().item()
    with torch.no_grad():
        params[0] += 9.0  # the step
    row = penalty.report(params, value)
    assert row["distances"] == distances.tolist()
    assert row["distances"][0] == pytest.approx(0.4)
    assert row["relative_distances"][0] == pytest.approx(0.4 / flat(start).norm().item())
    assert row["nearest"] == min(row["distances"])
    assert row["nearest_in_sigma"] == pytest.approx(row["nearest"] / 0.5)
    assert row["gradient"] == pytest.approx(norm, rel=1e-12)
    assert row["gradient_ratio"] == pytest.approx(norm / rest, rel=1e-9)
    penalty.strength = 0.0
    off = penalty.report(params, penalty(params))
    assert off["distances"] == penalty.distances(params).tolist()
    assert "gradient" not in off
    assert CheckpointDistance().report(params, value) == {}


def test_gradients_can_be_changed_in_place():
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    penalty = CheckpointDistance(strength=100.0)
    penalty.snapshot([torch.zeros(3), torch.zeros(2)])
    penalty(params).backward()
    nn.utils.clip_grad_norm_(params, 1.0)
    assert flat([p.grad for p in params]).norm().item() == pytest.approx(1.0, rel=1e-4)


def test_ehnewton_leaves_a_snapshot_that_newtons_method_would_stay_at():
    """A bowl with a hill on its minimum: beside that the curvature is negative, and the step follows the slope."""
    theta = torch.tensor([0.05, 0.0], dtype=torch.float64, requires_grad=True)
    penalty = CheckpointDistance(strength=1.0, sigma=0.5)
    penalty.snapshot([torch.zeros(2, dtype=torch.float64)])
    optimizer = EHNewton([theta], lr=0.5, damping=1e-2)
    for _ in range(40):
        optimizer.step(lambda: 0.5 * theta.square().sum() + penalty([theta]))
    # where 1 = 1 / sigma^2 exp(-r^2 / (2 sigma^2)): the bowl's slope is the hill's
    assert theta.detach().norm().item() == pytest.approx(0.5 * math.sqrt(2 * math.log(4)), rel=1e-3)


def test_which_parameters_count():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    assert len(covered_parameters(network, CheckpointDistance())) == 6
    weights = covered_parameters(network, CheckpointDistance(layers="weights"))
    assert [id(p) for p in weights] == [id(network[0].weight), id(network[3].weight)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1}, "strength=-1: must be >= 0"),
        ({"sigma": 0}, "sigma=0: must be > 0"),
        ({"sigma": float("inf")}, "sigma=inf: must be > 0 and finite"),
        ({"strength": float("nan")}, "strength=nan: must be >= 0 and finite"),
        ({"keep": 0}, "keep=0: must be >= 1, or None"),
        ({"units": "metres"}, "units=metres: must be one of absolute, snapshot_norm, root_parameters"),
        ({"layers": "some"}, "layers=some: must be one of all, weights"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CheckpointDistance(**options)


def test_other_parameters_than_the_snapshots_are_refused():
    penalty = CheckpointDistance()
    penalty.snapshot([torch.ones(3)])
    with pytest.raises(ValueError, match="4 parameters, and snapshots of 3: must be equal"):
        penalty([torch.ones(4)])
    with pytest.raises(ValueError, match="the norm of the snapshot is 0"):
        CheckpointDistance(units="snapshot_norm").snapshot([torch.zeros(3)])


def test_in_a_loop_of_ones_own_it_takes_what_parameters_returns_and_refuses_what_is_no_state_of_it():
    network = nn.Linear(3, 2)
    penalty = CheckpointDistance(strength=3.0, sigma=0.5)
    assert penalty(network.parameters()).item() == 0
    penalty.snapshot(network.parameters())
    assert penalty(network.parameters()).item() == 3
    assert penalty.distances(network.parameters()).tolist() == [0]
    with pytest.raises(ValueError, match="^the state is not one of CheckpointDistance: it has state, param_groups$"):
        penalty.load_state_dict(torch.optim.SGD(network.parameters()).state_dict())
    with pytest.raises(ValueError, match="^parameters must be real; give view_as_real of complex ones$"):
        penalty.snapshot([torch.zeros(2, dtype=torch.complex64)])
