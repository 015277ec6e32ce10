"""Schedules that fall once, and the one-cycle policy, against torch's own at every step and beyond their end."""

from math import cos, pi, sqrt

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from helpers.walk import Walk
from trainopt.optimizers import Cosine, Linear, OneCycle, Polynomial, WarmupStableDecay, timm_optimizer

LENGTHS = [("24steps", 4), ("6epochs", 4), ("2.4epochs", 10)]  # 24 steps, at so many an epoch
N = 24
LRS = (0.5, 0.02)


def walks(per_epoch=4, optimizer=torch.optim.SGD):
    """Two equal runs: of a schedule of ours, and of torch's."""
    return Walk(per_epoch, LRS, optimizer), Walk(per_epoch, LRS, optimizer)


def check_same(ours, torchs, steps):
    """Asserts that two walks with their schedules take the same learning rates."""
    (walk, schedule), (peer_walk, peer) = ours, torchs
    for mine, theirs in zip(walk.rates(schedule, steps, None), peer_walk.rates(peer, steps, None), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize(("over", "per_epoch"), LENGTHS)
def test_cosine_is_torchs(over, per_epoch):
    walk, torchs = walks(per_epoch)
    check_same(
        (walk, Cosine(walk.optimizer, walk.progress, over)),
        (torchs, lr_scheduler.CosineAnnealingLR(torchs.optimizer, N)),
        N + 1,
    )
    assert walk.rates(Cosine(walk.optimizer, walk.progress, over), 5) == [0.0] * 5  # torch's rises again


def test_cosine_ends_at_a_fraction_of_each_groups_learning_rate():
    walk = Walk(4, LRS)
    rates = walk.rates(Cosine(walk.optimizer, walk.progress, "10steps", min_lr=0.1), 14, None)
    for lr, lrs in zip(LRS, zip(*rates, strict=True), strict=True):
        expected = [lr * (0.1 + 0.9 * (1 + cos(pi * min(k, 10) / 10)) / 2) for k in range(14)]
        assert list(lrs) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("over", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("min_lr", [0.0, 0.25])
def test_linear_is_torchs(over, per_epoch, min_lr):
    walk, torchs = walks(per_epoch)
    peer = lr_scheduler.LinearLR(torchs.optimizer, 1.0, min_lr, N)
    check_same((walk, Linear(walk.optimizer, walk.progress, over, min_lr)), (torchs, peer), 3 * N)


@pytest.mark.parametrize(("over", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("power", [0.9, 1.0, 2.0])
def test_polynomial_is_torchs(over, per_epoch, power):
    walk, torchs = walks(per_epoch)
    peer = lr_scheduler.PolynomialLR(torchs.optimizer, N, power)
    check_same((walk, Polynomial(walk.optimizer, walk.progress, over, power=power)), (torchs, peer), 3 * N)


def test_warmup_stable_decay_is_constant_and_then_torchs_linear_fall():
    walk, torchs = walks()
    ours = WarmupStableDecay(walk.optimizer, walk.progress, "24steps", min_lr=0.1, decay=0.25, shape="linear")
    parts = [
        lr_scheduler.ConstantLR(torchs.optimizer, 1.0, N),
        lr_scheduler.LinearLR(torchs.optimizer, 1.0, 0.1, N // 4),
    ]
    check_same((walk, ours), (torchs, lr_scheduler.SequentialLR(torchs.optimizer, parts, [18])), 2 * N)


@pytest.mark.parametrize(
    ("shape", "left"), [("sqrt", lambda s: 1 - sqrt(s)), ("cosine", lambda s: (1 + cos(pi * s)) / 2)]
)
def test_warmup_stable_decay_falls_in_its_shape(shape, left):
    walk = Walk(4)
    schedule = WarmupStableDecay(walk.optimizer, walk.progress, "20steps", decay=0.5, shape=shape)
    expected = [0.5] * 10 + [0.5 * left(k / 10) for k in range(10)] + [0.0] * 3
    assert walk.rates(schedule, 23) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(("over", "per_epoch"), LENGTHS)
@pytest.mark.parametrize("anneal_strategy", ["cos", "linear"])
@pytest.mark.parametrize(("three_phase", "pct_start"), [(False, 0.25), (True, 0.25), (False, 0.3)])
@pytest.mark.parametrize("optimizer", [lambda groups, lr: torch.optim.SGD(groups, lr, 0.9), torch.optim.Adam])
def test_one_cycle_is_torchs(over, per_epoch, anneal_strategy, three_phase, pct_start, optimizer):
    """Torch's first phase ends at step pct_start * total_steps - 1, the last one at total_steps - 1."""
    walk, torchs = walks(per_epoch, optimizer)
    options = {"anneal_strategy": anneal_strategy, "three_phase": three_phase}
    ours = OneCycle(walk.optimizer, walk.progress, over, pct_start=pct_start, **options)
    peer = lr_scheduler.OneCycleLR(
        torchs.optimizer, list(LRS), N + 1, pct_start=(pct_start * N + 1) / (N + 1), **options
    )
    for _ in range(N):
        (mine,), (theirs,) = walk.rates(ours, 1, None), torchs.rates(peer, 1, None)
        assert mine == pytest.approx(theirs, rel=1e-10)
        for group, other in zip(walk.optimizer.param_groups, torchs.optimizer.param_groups, strict=True):
            if "betas" in group:
                assert group["betas"] == pytest.approx(other["betas"], rel=1e-12)
            else:
                assert group["momentum"] == pytest.approx(other["momentum"], rel=1e-12)
    assert set(walk.rates(ours, 3)) == {walk.optimizer.param_groups[0]["lr"]}


def test_one_cycle_sets_the_momentum_of_muon_and_the_betas_of_its_fallback():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    walk, torchs = Walk(4), Walk(4, optimizer=lambda groups, lr: torch.optim.SGD(groups, lr, 0.9))
    walk.optimizer = timm_optimizer(network.parameters(), network, "muon", lr=0.5)
    walk.parameters = list(network.parameters())
    ours = OneCycle(walk.optimizer, walk.progress, f"{N}steps", pct_start=0.25, base_momentum=0.0)
    pct_start = (0.25 * N + 1) / (N + 1)
    peer = lr_scheduler.OneCycleLR(torchs.optimizer, 0.5, N + 1, pct_start=pct_start, base_momentum=0.0)
    for _ in range(N):
        expected = torchs.optimizer.param_groups[0]["momentum"]
        for group in walk.optimizer.param_groups:
            assert [group["momentum"], group["betas"][0]] == pytest.approx([expected] * 2, abs=1e-12)
        walk.rates(ours, 1)
        torchs.rates(peer, 1)


def test_one_cycle_leaves_a_momentum_of_0_beside_betas():
    walk = Walk(4, optimizer=torch.optim.Adam)
    walk.optimizer.param_groups[0]["momentum"] = 0.0  # as Dash of pytorch_optimizer has it
    walk.rates(OneCycle(walk.optimizer, walk.progress, "9steps"), 4)
    assert walk.optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize("lrs", [[0.125, 0.25, 0.5], [2.0, 0.5]])
def test_the_highest_rate_of_one_cycle_is_for_groups_with_the_optimizers_own(lrs):
    walk, torchs = Walk(4, lrs=lrs), Walk(4, lrs=lrs)
    options = {"anneal_strategy": "linear", "cycle_momentum": False}
    ours = OneCycle(walk.optimizer, walk.progress, f"{N}steps", max_lr=0.1, pct_start=0.25, **options)
    highest = [0.1 * lr / 0.5 for lr in lrs]
    peer = lr_scheduler.OneCycleLR(torchs.optimizer, highest, N + 1, pct_start=(0.25 * N + 1) / (N + 1), **options)
    for mine, theirs in zip(walk.rates(ours, N, None), torchs.rates(peer, N, None), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-10)


def test_one_cycle_may_leave_the_momentum_alone():
    walk = Walk(4)
    OneCycle(walk.optimizer, walk.progress, "9steps", max_lr=2.0, cycle_momentum=False)
    assert walk.optimizer.param_groups[0]["lr"] == pytest.approx(2.0 / 25)
    assert walk.optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (Cosine, {"min_lr": 2}, "min_lr=2: must be in"),
        (Polynomial, {"power": 0}, "power=0: must be > 0"),
        (WarmupStableDecay, {"decay": 0}, "decay=0: must be in"),
        (WarmupStableDecay, {"shape": "cubic"}, "shape=cubic: must be one of"),
        (OneCycle, {"pct_start": 1}, "pct_start=1: must be in"),
        (OneCycle, {"pct_start": 0.5, "three_phase": True}, "pct_start=0.5: must be in"),
        (OneCycle, {"div_factor": 0.5}, "div_factor=0.5: must be >= 1"),
        (OneCycle, {"base_momentum": 0.99}, "base_momentum=0.99: must be in"),
        (OneCycle, {"anneal_strategy": "exp"}, "anneal_strategy=exp: must be one of"),
    ],
)
def test_arguments_that_are_wrong_are_named(schedule, options, message):
    walk = Walk(4)
    with pytest.raises(ValueError, match=message):
        schedule(walk.optimizer, walk.progress, "9steps", **options)


def test_an_optimizer_without_momentum_has_none_to_cycle():
    walk = Walk(4, optimizer=torch.optim.Adagrad)
    with pytest.raises(ValueError, match="Adagrad has no momentum; give schedule.cycle_momentum=false"):
        OneCycle(walk.optimizer, walk.progress, "9steps")
