"""Adaptive Nesterov against a plain reference at every step, and each of its branches, in float64."""

import copy
import io

import numpy as np
import pytest
import torch
from torch import nn

from helpers.runs import equal
from trainopt.optimizers import AdaptiveNesterov

X0 = [-1.2, 1.0, 0.7]


def loss_of(x):
    """A nonconvex function with saddles; its minimum is 1."""
    return (x[0] ** 2 - 1) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2 + (3 * x[2]).sin() + 2


def reference(theta, v, momentum, gamma, floor, lr_bounds, norm_bounds):
    """Equation 3.3.5 with numpy and a gradient worked out by hand: (weights, v, eta) after a step."""
    a, b, c = theta - momentum * v
    loss = (a**2 - 1) ** 2 + 10 * (b - a**2) ** 2 + np.sin(3 * c) + 2
    g = np.array([4 * a * (a**2 - 1) - 40 * a * (b - a**2), 20 * (b - a**2), 3 * np.cos(3 * c)])
    norm = g @ g
    if norm_bounds:
        norm = np.clip(norm, *norm_bounds)
    eta = gamma * abs(loss - floor) / norm
    if lr_bounds:
        eta = np.clip(eta, *lr_bounds)
    v = momentum * v + eta * g
    return theta - v, v, eta


def closure_for(optimizer, function):
    def closure():
        optimizer.zero_grad()
        loss = function()
        loss.backward()
        return loss

    return closure


def weight(values=X0):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


SETTINGS = {
    "as in the paper's tests": (0.9, 1.0, 0.0, (1e-3, 0.1), (1e-4, 1e10)),
    "without bounds": (0.5, 0.1, 0.0, None, None),
    "without momentum, with a floor": (0.0, 0.7, 0.9, (0.0, 0.05), None),
    "a floor above the loss: the step is by its distance": (0.3, 0.1, 5.0, (0.0, 0.02), (1e-4, 1e10)),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_every_step_is_that_of_the_plain_reference(setting):
    w = [weight([x]) for x in X0]  # three tensors: the norm is over all of them
    optimizer = AdaptiveNesterov(w, *setting)
    closure = closure_for(optimizer, lambda: loss_of(torch.cat(w)))
    theta, v = np.array(X0), np.zeros(3)
    for _ in range(80):
        # each from where the optimizer stands: a nonconvex function makes rounding larger from step to step
        theta, v, eta = reference(theta, v, *setting)
        optimizer.step(closure)
        ours = [np.concatenate([p.detach().numpy() for p in w])]
        ours.append(np.concatenate([optimizer.state[p]["v"].numpy() for p in w]))
        # absolute, as the gradient comes close to 0
        assert ours[0] == pytest.approx(theta, rel=1e-12, abs=1e-13)
        assert ours[1] == pytest.approx(v, rel=1e-12, abs=1e-13)
        assert optimizer.param_groups[0]["lr"] == optimizer.last_step["lr"] == pytest.approx(eta, rel=1e-12)
        theta, v = ours


def test_half_the_squared_norm_is_halved_by_every_step():
    w = weight()
    optimizer = AdaptiveNesterov([w], momentum=0, lr_bounds=None, grad_norm_sq_bounds=None)
    closure = closure_for(optimizer, lambda: w.square().sum() / 2)
    for k in range(1, 9):
        loss = optimizer.step(closure)
        assert w.tolist() == [x / 2**k for x in X0]  # powers of 2: exact
        assert optimizer.last_step["lr"] == pytest.approx(0.5, rel=1e-15)
        assert loss.item() == pytest.approx(sum(x * x for x in X0) / 2 / 4 ** (k - 1), rel=1e-14)


@pytest.mark.parametrize(
    ("scale", "bounds", "expected"),
    [  # f = scale * w at w = 1: L = scale, ||g||^2 = scale^2, eta = 1 / scale
        (2.0, {}, {"lr": 0.5, "unclipped_lr": 0.5, "lr_is_clipped": 0, "grad_norm_sq_is_clipped": 0}),
        (2.0, {"lr_bounds": (1e-3, 0.1)}, {"lr": 0.1, "unclipped_lr": 0.5, "lr_is_clipped": 1}),
        (2e3, {"lr_bounds": (1e-3, 0.1)}, {"lr": 1e-3, "unclipped_lr": 5e-4, "lr_is_clipped": 1}),
        (
            1e-3,
            {"grad_norm_sq_bounds": (1e-4, 1e10)},
            {"lr": 10.0, "grad_norm_sq": 1e-6, "grad_norm_sq_is_clipped": 1},
        ),
        (
            1e6,
            {"grad_norm_sq_bounds": (1e-4, 1e10)},
            {"lr": 1e-4, "grad_norm_sq": 1e12, "grad_norm_sq_is_clipped": 1},
        ),
        (0.0, {}, {"lr": 0.0, "grad_norm_sq": 0.0}),
    ],
)
def test_each_bound_clips_what_it_is_for(scale, bounds, expected):
    w = weight([1.0])
    optimizer = AdaptiveNesterov([w], **{"lr_bounds": None, "grad_norm_sq_bounds": None, **bounds})
    optimizer.step(closure_for(optimizer, lambda: scale * w.sum()))
    actual = {key: optimizer.last_step[key] for key in expected}
    assert actual == pytest.approx(expected, rel=1e-12)
    assert w.item() == pytest.approx(1 - expected["lr"] * scale, rel=1e-12)


def test_with_the_right_floor_it_arrives_and_with_one_too_low_it_does_not_or_the_rate_sits_at_its_bound():
    def walk(floor, lr_bounds):
        w = weight()
        optimizer = AdaptiveNesterov([w], momentum=0, loss_floor=floor, lr_bounds=lr_bounds, grad_norm_sq_bounds=None)
        lengths, rates = [], []
        for _ in range(60):
            optimizer.step(closure_for(optimizer, lambda: 3 + w.square().sum() / 2))
            lengths.append(w.norm().item())
            rates.append(optimizer.last_step["lr"])
        return lengths[30:], rates[30:]

    # as far as 3 + x^2 / 2 can be told from 3
    assert max(walk(3.0, None)[0]) < 1e-7
    assert max(walk(0.0, None)[0]) > 1
    assert set(walk(0.0, (1e-3, 0.1))[1]) == {0.1}


def test_a_closure_that_raises_leaves_weights_and_state_bit_for_bit():
    w, late = weight(), weight([0.3])
    optimizer = AdaptiveNesterov([w, late])
    for _ in range(3):
        optimizer.step(closure_for(optimizer, lambda: loss_of(w)))
    before = copy.deepcopy([w.data, late.data, optimizer.state_dict()])
    seen = []

    def closure():
        seen.append(w.detach().clone())
        raise FloatingPointError

    with pytest.raises(FloatingPointError):
        optimizer.step(closure)
    assert not torch.equal(seen[0], w)  # it was called at theta'
    assert equal(before, [w.data, late.data, optimizer.state_dict()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_leaves_all_as_it_was_and_the_next_step_is_made(part, value):
    w, plain = weight(), weight()
    optimizers = [AdaptiveNesterov([p]) for p in (w, plain)]

    def broken():
        loss = closure_for(optimizers[0], lambda: loss_of(w))()
        if part == "gradient":
            w.grad[1] = value
        return loss if part == "gradient" else loss.detach() * 0 + value

    for step in range(3):
        if step > 0:
            with pytest.raises(FloatingPointError, match=f"{part} is {value}"):
                optimizers[0].step(broken)
        for optimizer, p in zip(optimizers, (w, plain), strict=True):
            optimizer.step(closure_for(optimizer, lambda p=p: loss_of(p)))
        assert torch.equal(w, plain)
    assert equal(optimizers[0].state_dict(), optimizers[1].state_dict())


def test_the_weights_are_moved_from_theta_and_not_from_the_look_ahead():
    """Float32, where theta - alpha v + alpha v is not theta."""
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(1000))
    optimizer = AdaptiveNesterov([w])
    for _ in range(5):
        theta = w.detach().clone()
        optimizer.step(closure_for(optimizer, lambda: w.sin().sum()))
        assert torch.equal(w, theta - optimizer.state[w]["v"])


def test_groups_have_their_own_momentum_and_one_rate():
    first, second = weight(), weight()
    optimizer = AdaptiveNesterov([{"params": [first], "momentum": 0.0}, {"params": [second]}], lr_bounds=(0, 0.01))
    closure = closure_for(optimizer, lambda: loss_of(first) + loss_of(second))
    for step in range(5):
        before = first.detach().clone()
        optimizer.step(closure)
        eta = optimizer.last_step["lr"]
        assert {group["lr"] for group in optimizer.param_groups} == {eta}
        assert torch.allclose(first, before - eta * first.grad, rtol=1e-14)
        assert step == 0 or not torch.equal(first, second)


def test_frozen_weights_and_those_without_a_gradient_stay_and_do_not_count():
    w, frozen, unused, alone = weight(), weight(), weight(), weight()
    frozen.requires_grad_(False)
    both = AdaptiveNesterov([w, frozen, unused])
    one = AdaptiveNesterov([alone])
    for _ in range(4):
        both.step(closure_for(both, lambda: loss_of(w) + frozen.sum() * 0))
        one.step(closure_for(one, lambda: loss_of(alone)))
    assert torch.equal(w, alone)
    assert frozen.tolist() == unused.tolist() == X0
    assert list(both.state) == [w]


def test_without_any_gradient_nothing_moves():
    w = weight()
    optimizer = AdaptiveNesterov([w])
    assert optimizer.step(lambda: torch.tensor(2.0)).item() == 2.0
    assert w.tolist() == X0


def test_a_state_loaded_in_the_middle_goes_on_as_if_nothing_had_happened():
    whole, part = weight(), weight()
    first = AdaptiveNesterov([whole])
    second = AdaptiveNesterov([part])
    for _ in range(7):
        first.step(closure_for(first, lambda: loss_of(whole)))
        second.step(closure_for(second, lambda: loss_of(part)))
    file = io.BytesIO()
    torch.save(second.state_dict(), file)
    file.seek(0)
    third = AdaptiveNesterov([part], momentum=0.1, gamma=0.5)  # what it was made with is in the state
    third.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(8):
        first.step(closure_for(first, lambda: loss_of(whole)))
        third.step(closure_for(third, lambda: loss_of(part)))
    assert torch.equal(whole, part)
    assert equal(first.state_dict(), third.state_dict())


def test_a_copy_goes_on_too():
    w = weight()
    optimizer = AdaptiveNesterov([w])
    optimizer.step(closure_for(optimizer, lambda: loss_of(w)))
    other = copy.deepcopy(optimizer)
    (v,) = other.param_groups[0]["params"]
    optimizer.step(closure_for(optimizer, lambda: loss_of(w)))
    other.step(closure_for(other, lambda: loss_of(v)))
    assert torch.equal(v, w)
    assert other.last_step == optimizer.last_step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"^momentum=1.0: must be in \[0, 1\)$"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"gamma": 0.0}, "^gamma=0.0: must be > 0$"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"loss_floor": float("inf")}, "loss_floor=inf: must be a finite number"),
        ({"lr_bounds": (0.1, 0.01)}, "lr_bounds=(0.1, 0.01): must be (low, high) with 0 <= low <= high, or None"),
        ({"lr_bounds": (0.1,)}, "lr_bounds=(0.1,): must be"),
        ({"grad_norm_sq_bounds": (-1, 1)}, "grad_norm_sq_bounds=(-1, 1): must be"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message if message[0] == "^" else None) as raised:
        AdaptiveNesterov([weight()], **arguments)
    assert message[0] == "^" or message in str(raised.value)


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"gamma": 0.5}])
def test_a_group_with_a_rate_of_its_own_is_refused(options):
    with pytest.raises(ValueError, match="cannot differ between groups; only momentum and weight_decay can"):
        AdaptiveNesterov([{"params": [weight()], **options}])


def test_a_step_without_a_closure_is_an_error():
    with pytest.raises(ValueError, match="needs a closure"):
        AdaptiveNesterov([weight()]).step()
