"""EHNewton where factors are 0, gradients clipped, batches empty, and curvatures not finite."""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from helpers.references import Problem, flat, numbers, parameter
from trainopt.optimizers import EHNewton
from trainopt.optimizers.ehnewton.estimate import CurvatureEstimate, Model
from trainopt.optimizers.preconditioners.kronecker import PI, trace_ratio
from trainopt.optimizers.shard import Shard

PRESET = {
    "lr": 1.0,
    "damping": 0.01,
    "cg_max_iter": 1,
    "curvature": "gauss_newton",
    "preconditioner": "kronecker",
    "subspace": "last_step",
    "damping_per_output": True,
}
TARGETS = torch.arange(12) % 3


class ZeroBranch(nn.Module):
    """A residual network whose branch ends in a batch norm of weight 0, as timm's ResNets begin."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(x + self.norm(self.branch(F.relu(x)))).mean((2, 3)))


def zero_head():
    network = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.zeros_(network[2].weight)
    return network, numbers(12, 10).float()


def dead_units():
    network = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.constant_(network[0].bias, -100.0)
    return network, numbers(12, 10).float()


@pytest.mark.parametrize("make", [zero_head, dead_units, lambda: (ZeroBranch(), numbers(12, 1, 6, 6).float())])
def test_factors_of_zero_leave_a_step_of_use(make):
    torch.manual_seed(0)
    network, x = make()
    optimizer, losses = EHNewton(network.parameters(), **PRESET), []
    for _ in range(10):
        losses.append(float(optimizer.step(lambda: F.cross_entropy(network(x), TARGETS))))
    assert min(losses) < losses[0] - 1e-3
    values = [torch.as_tensor(value) for of_param in optimizer.state.values() for value in of_param.values()]
    assert all(value.isfinite().all() for value in values)


def test_the_ratio_of_traces_is_bounded():
    one, zero = torch.eye(3, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    assert trace_ratio(4 * one, one[:2, :2]) == 2.0
    assert trace_ratio(one, zero) == trace_ratio(zero, one) == 1.0
    assert (trace_ratio(1e-30 * one, one), trace_ratio(one, 1e-30 * one)) == PI


def test_clipped_gradients_are_those_of_all_layers():
    """Also of layers that are solved by rows: the step is linear in the gradients."""

    def change(factor):
        torch.manual_seed(0)
        layers = nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3)
        one = Problem(nn.Sequential(*layers).double(), numbers(6, 40), lambda z: F.cross_entropy(z, TARGETS[:6]))
        optimizer = EHNewton(one.params, **PRESET | {"subspace": "none"})

        def closure():
            optimizer.zero_grad()
            loss = one.closure()
            loss.backward()
            for p in one.params[:2]:
                p.grad.mul_(factor)
            return loss.detach()

        # the direction alone, as the length of the step follows from all
        before = one.weights()
        optimizer.step(closure)
        step = one.weights() - before
        return step[: 41 * 40] / step[41 * 40 :].norm()

    torch.testing.assert_close(change(0.5), 0.5 * change(1.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_curvature_that_is_not_finite_is_an_error(iterations):
    w = parameter(0.0)
    optimizer = EHNewton([w], lr=1.0, cg_max_iter=iterations)
    with pytest.raises(FloatingPointError, match="the curvature along it"):
        optimizer.step(lambda: w.abs().pow(1.5).sum() + 2 * w.sum())
    assert w.item() == 0.0


@pytest.mark.parametrize("options", [{}, {"cg_max_iter": 1}, {"cg_max_iter": 1, "curvature": "gauss_newton"}])
def test_an_empty_batch_changes_nothing(options):
    layer = nn.Linear(3, 2)
    before, optimizer = flat(layer.parameters()), EHNewton(layer.parameters(), **options)
    empty = torch.ones(0, 3), torch.zeros(0, dtype=torch.long)
    assert float(optimizer.step(lambda: F.cross_entropy(layer(empty[0]), empty[1], reduction="sum"))) == 0.0
    assert torch.equal(flat(layer.parameters()), before)


def test_a_loss_that_is_only_shown_does_not_matter():
    def weights(shows):
        torch.manual_seed(0)
        network = nn.Linear(10, 3)
        optimizer, x = EHNewton(network.parameters(), **PRESET), numbers(12, 10).float()

        def closure():
            z = network(x)
            if shows:
                F.mse_loss(z, torch.zeros_like(z))
            return F.cross_entropy(z, TARGETS)

        optimizer.step(closure)
        return flat(network.parameters())

    assert torch.equal(weights(True), weights(False))


def test_a_loss_of_one_number_has_the_damping_of_one_output():
    layer = nn.Linear(3, 1)
    both = []
    for shape in ((), (1, 1)):
        one = copy.deepcopy(layer)
        optimizer = EHNewton(one.parameters(), **PRESET | {"preconditioner": "none", "subspace": "none"})
        optimizer.step(lambda s=shape, m=one: F.mse_loss(m(torch.ones(1, 3)).view(s), torch.ones(s)))
        both.append(flat(one.parameters()))
    assert torch.equal(*both)


@pytest.mark.parametrize(("rise", "end"), [(0.0, 1e-10), (3.0, 1e10)])
def test_the_adapted_damping_stays_within_bounds(rise, end):
    """The loss is as the model predicts, or it rises where the model lets it fall."""
    w = parameter(1.0)
    optimizer = EHNewton([w], lr=1.0, damping=end * (0.5 if rise else 2), adapt_damping=True, cg_max_iter=1)
    for _ in range(4):
        with torch.no_grad():
            w.fill_(1.0)
        added = iter((0.0, rise))  # to the loss before the step, and after it
        optimizer.step(lambda added=added: (w + 1e-12 * w.square()).sum() + next(added))
    assert optimizer.param_groups[0]["damping"] == end


def test_a_copy_has_the_part_of_the_batch():
    optimizer = EHNewton([parameter(1.0)])
    assert copy.deepcopy(optimizer).shard.is_whole
    optimizer.shard = Shard()
    optimizer.shard.is_whole = False
    assert not copy.deepcopy(optimizer).shard.is_whole


def test_options_of_a_loaded_state_say_whether_a_step_reads():
    one, other = EHNewton([parameter(1.0)], **PRESET), EHNewton([parameter(1.0)])
    other.load_state_dict(one.state_dict())
    assert other.needs_loss_function
    assert other.reads_next()


def test_the_estimate_follows_its_matrix_to_a_gpu():
    """By tensors without memory: numbers of the host meet a matrix that is on the device."""
    with FakeTensorMode():
        try:
            Q = torch.empty(2, 2, dtype=torch.float64, device="cuda")
            Q.new_tensor([1.0])
        except RuntimeError:
            pytest.skip("this torch has no tensors of a GPU that is not there")
        state = {}
        estimate = CurvatureEstimate(torch.empty(3, device="cuda"), state, 5)
        estimate.update(Model(Q, -1.0, 2.0, torch.zeros(2, dtype=torch.float64)), 1.0)
    assert state["subspace_curvature"].device.type == "cuda"
