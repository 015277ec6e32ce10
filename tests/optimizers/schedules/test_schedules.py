"""Schedules against closed forms and torch's own, at every step of three cycles and more."""

import math

import pytest
import torch
from scipy.signal.windows import hann
from torch.optim import lr_scheduler

from helpers.walk import Walk
from trainopt.optimizers import (
    Constant,
    CosineRestarts,
    Cyclic,
    EHNewton,
    Exponential,
    Multistep,
    ProgressSchedule,
    RangeTest,
    WarmUp,
)
from trainopt.runner.state.progress import Progress


def test_constant_stays():
    walk = Walk(5)
    assert set(walk.rates(Constant(walk.optimizer), 20)) == {0.5}


def test_multistep_drops_at_its_milestones():
    walk = Walk(4)
    schedule = Multistep(walk.optimizer, walk.progress, ["1.5epochs", "9steps"], gamma=0.1)
    assert walk.rates(schedule, 12) == [0.5] * 6 + [0.5 * 0.1] * 3 + [0.5 * 0.1**2] * 3


@pytest.mark.parametrize("every", ["0.05epochs", "1epochs", "3steps"])
@pytest.mark.parametrize("staircase", [True, False])
def test_exponential_is_its_closed_form(every, staircase):
    walk = Walk(40)
    schedule = Exponential(walk.optimizer, walk.progress, gamma=0.8, every=every, staircase=staircase)
    steps = {"0.05epochs": 2, "1epochs": 40, "3steps": 3}[every]
    passed = [k // steps if staircase else k / steps for k in range(120)]
    assert walk.rates(schedule, 120) == pytest.approx([0.5 * 0.8**p for p in passed])


def test_a_step_every_twentieth_of_an_imagenet_epoch_falls_where_the_thesis_has_it():
    """Zorca 2020, section 4.4.3: 0.05 epochs of 1,281,167 images at batch 96 are 667 steps and a quarter."""
    progress = Progress(epoch_size=1_281_167)
    counts = []
    for step in (667, 668, 1334, 1335):
        progress.samples_passed = step * 96
        counts.append(int(progress.elapsed("0.05epochs")))
    assert counts == [0, 1, 1, 2]


DURATIONS = [("6steps", 6, 4), ("1.5epochs", 6, 4), ("2.5epochs", 10, 4)]  # the same in steps, at so many an epoch


def smith(step, stepsize, low, high):
    """Smith 2017, section 3.1 as its listing has it; without the amplitude (the cycle, the wave)."""
    cycle = math.floor(1 + step / (2 * stepsize))
    x = abs(step / stepsize - 2 * cycle + 1)
    return cycle, low + (high - low) * max(0.0, 1 - x)


@pytest.mark.parametrize(("step_up", "half", "per_epoch"), DURATIONS)
def test_triangular_is_smiths_listing_and_that_of_torch(step_up, half, per_epoch):
    walk, torchs = Walk(per_epoch), Walk(per_epoch)
    schedule = Cyclic(walk.optimizer, walk.progress, base_lr=0.001, max_lr=0.1, step_up=step_up)
    peer = lr_scheduler.CyclicLR(torchs.optimizer, 0.001, 0.1, half, cycle_momentum=False)
    rates = walk.rates(schedule, 6 * half)
    assert rates == pytest.approx([smith(k, half, 0.001, 0.1)[1] for k in range(6 * half)], rel=1e-12)
    assert rates == pytest.approx(torchs.rates(peer, 6 * half), rel=1e-12)


@pytest.mark.parametrize(("step_up", "half", "per_epoch"), DURATIONS)
def test_triangular2_halves_the_amplitude_after_each_cycle(step_up, half, per_epoch):
    walk, torchs = Walk(per_epoch), Walk(per_epoch)
    schedule = Cyclic(walk.optimizer, walk.progress, 0.001, 0.1, step_up, mode="triangular2")
    peer = lr_scheduler.CyclicLR(torchs.optimizer, 0.001, 0.1, half, mode="triangular2", cycle_momentum=False)
    rates = walk.rates(schedule, 6 * half)
    assert [rates[half], rates[3 * half], rates[5 * half]] == pytest.approx([0.1, 0.0505, 0.02575])
    assert rates == pytest.approx(torchs.rates(peer, 6 * half), rel=1e-12)


def test_exp_range_multiplies_the_amplitude_at_every_step():
    walk, torchs = Walk(), Walk()
    schedule = Cyclic(walk.optimizer, walk.progress, 0.001, 0.1, "5steps", mode="exp_range", gamma=0.9)
    peer = lr_scheduler.CyclicLR(torchs.optimizer, 0.001, 0.1, 5, mode="exp_range", gamma=0.9, cycle_momentum=False)
    rates = walk.rates(schedule, 30)
    expected = [0.001 + (smith(k, 5, 0.001, 0.1)[1] - 0.001) * 0.9**k for k in range(30)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates == pytest.approx(torchs.rates(peer, 30), rel=1e-12)


def test_exp_range_decays_by_durations_of_any_kind():
    walk = Walk(per_epoch=4)
    options = {"mode": "exp_range", "gamma": 0.5, "gamma_every": "0.5epochs"}
    schedule = Cyclic(walk.optimizer, walk.progress, 0.0, 1.0, "5steps", **options)
    expected = [smith(k, 5, 0.0, 1.0)[1] * 0.5 ** (k / 2) for k in range(30)]
    assert walk.rates(schedule, 30) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["triangular", "triangular2"])
@pytest.mark.parametrize("half", [1, 6])
def test_windows_are_those_of_welch_and_hann(mode, half):
    shapes = {
        "parabolic": [1 - ((n - half) / half) ** 2 for n in range(2 * half)],
        "sinusoidal": hann(2 * half + 1)[:-1].tolist(),
    }
    for window, shape in shapes.items():
        walk = Walk()
        schedule = Cyclic(walk.optimizer, walk.progress, 0.1, 0.9, f"{half}steps", mode=mode, window=window)
        amplitudes = [0.8, 0.4, 0.2] if mode == "triangular2" else [0.8] * 3
        expected = [0.1 + a * w for a in amplitudes for w in shape]
        assert walk.rates(schedule, 6 * half) == pytest.approx(expected, abs=1e-12)


def test_bounds_that_are_not_given_follow_the_optimizers_rate():
    walk = Walk(lrs=[0.8])
    rates = walk.rates(Cyclic(walk.optimizer, walk.progress, step_up="4steps"), 24)
    assert (min(rates), max(rates)) == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize(("period", "first", "per_epoch"), [("4steps", 4, 3), ("1.5epochs", 6, 4)])
@pytest.mark.parametrize("period_mult", [1, 2, 3])
def test_cosine_restarts_are_those_of_torch(period, first, per_epoch, period_mult):
    steps = first * (1 + period_mult + period_mult**2) + 2
    walk, torchs = Walk(per_epoch), Walk(per_epoch)
    schedule = CosineRestarts(walk.optimizer, walk.progress, period, period_mult, min_lr=0.1)
    peer = lr_scheduler.CosineAnnealingWarmRestarts(torchs.optimizer, first, period_mult, eta_min=0.05)
    assert walk.rates(schedule, steps) == pytest.approx(torchs.rates(peer, steps), rel=1e-9)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("period_mult", [1.0, 1.1, 1.25, 1.5, 2.0, 2.7, 3.0, 10.0])
def test_cycles_grow_by_any_factor_and_a_restart_is_never_late(period_mult):
    """Against cycles counted one by one, in whole steps where period_mult allows it."""
    first, steps = 1000, 12000
    walk = Walk()
    schedule = CosineRestarts(walk.optimizer, walk.progress, f"{first}steps", period_mult)
    start, length, restarts = 0.0, float(first), 0
    for step in range(steps):
        walk.progress.step = step
        while step >= start + length - 1e-6:
            start, length, restarts = start + length, length * period_mult, restarts + 1
        expected = 0.5 * (1 + math.cos(math.pi * (step - start) / length)) / 2
        assert schedule.lr_of(0.5) == pytest.approx(expected, abs=1e-7)
    assert restarts >= (1 if period_mult == 10 else 2)


def test_a_period_as_long_as_the_run_is_cosine_decay():
    walk, torchs = Walk(4), Walk(4)
    schedule = CosineRestarts(walk.optimizer, walk.progress, period="5epochs")
    peer = lr_scheduler.CosineAnnealingLR(torchs.optimizer, T_max=20)
    assert walk.rates(schedule, 20) == pytest.approx(torchs.rates(peer, 20), rel=1e-9)


@pytest.mark.parametrize(("over", "per_epoch"), [("8steps", 3), ("2epochs", 4)])
def test_a_range_test_rises_by_equal_differences_or_ratios_and_then_stays(over, per_epoch):
    walk = Walk(per_epoch)
    rates = walk.rates(RangeTest(walk.optimizer, walk.progress, over, base_lr=0.0, max_lr=4.0, mode="linear"), 11)
    assert rates == pytest.approx([0.5 * k for k in range(9)] + [4.0] * 2)
    walk = Walk(per_epoch)
    rates = walk.rates(RangeTest(walk.optimizer, walk.progress, over, base_lr=1e-4, max_lr=1e4, mode="exponential"), 11)
    assert rates == pytest.approx([10.0 ** (k - 4) for k in range(9)] + [1e4] * 2)


@pytest.mark.parametrize("start", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("over", ["6steps", "1.5epochs"])
def test_a_warm_up_is_a_linear_factor_in_front_of_any_schedule(start, over):
    plain, warmed = Walk(4), Walk(4)
    whole = plain.rates(Cyclic(plain.optimizer, plain.progress, 0.1, 0.9, "5steps"), 30)
    schedule = Cyclic(warmed.optimizer, warmed.progress, 0.1, 0.9, "5steps")
    rates = warmed.rates(WarmUp(schedule, warmed.optimizer, warmed.progress, over, start), 30)
    factors = [start + (1 - start) * k / 6 for k in range(6)]
    assert rates[:6] == pytest.approx([f * r for f, r in zip(factors, whole, strict=False)], rel=1e-12)
    assert rates[6:] == whole[6:]  # bit for bit


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.ExponentialLR(o, 0.9),
        lambda o: lr_scheduler.StepLR(o, 3, 0.5),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 15),
        lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 4, mode="triangular2", cycle_momentum=False),
    ],
)
def test_schedules_that_compute_a_rate_from_the_last_one_never_see_the_warm_up(make):
    plain, warmed = Walk(lrs=[0.5, 0.05]), Walk(lrs=[0.5, 0.05])
    whole = plain.rates(make(plain.optimizer), 15, group=None)
    schedule = WarmUp(make(warmed.optimizer), warmed.optimizer, warmed.progress, "5steps", 0.2)
    rates = warmed.rates(schedule, 15, group=None)
    for k in range(15):
        assert rates[k] == pytest.approx([min(1.0, 0.2 + 0.8 * k / 5) * rate for rate in whole[k]], rel=1e-12)


MAKE = {
    "multistep": lambda o, p: Multistep(o, p, ["4steps", "2.5epochs"], 0.3),
    "exponential": lambda o, p: Exponential(o, p, 0.9, "2steps", staircase=False),
    "cyclic": lambda o, p: Cyclic(o, p, 0.1, 0.9, "3steps", "exp_range", "sinusoidal", 0.97),
    "cosine_restarts": lambda o, p: CosineRestarts(o, p, "1epochs", 1.5, 0.1),
    "range_test": lambda o, p: RangeTest(o, p, "4epochs", 0.001, 1.0),
    "warm-up": lambda o, p: WarmUp(Cyclic(o, p, 0.1, 0.9, "3steps"), o, p, "9steps"),
    "warm-up of torch's": lambda o, p: WarmUp(lr_scheduler.ExponentialLR(o, 0.8), o, p, "9steps"),
}


@pytest.mark.parametrize("name", MAKE)
def test_groups_keep_the_ratio_of_their_rates(name):
    walk = Walk(lrs=[0.5, 5.0, 0.0])
    rates = walk.rates(MAKE[name](walk.optimizer, walk.progress), 20, group=None)
    assert len({first for first, _, _ in rates}) > 2
    for first, second, third in rates:
        assert second == pytest.approx(10 * first, rel=1e-12)
        assert third == 0


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, EHNewton])
def test_an_optimizer_without_momentum_gets_the_same_rates(name, optimizer):
    walk, sgd = Walk(optimizer=optimizer), Walk()
    defaults = {k: v for k, v in walk.optimizer.param_groups[0].items() if k not in ("params", "lr")}
    rates = walk.rates(MAKE[name](walk.optimizer, walk.progress), 20)
    assert rates == sgd.rates(MAKE[name](sgd.optimizer, sgd.progress), 20)
    after = walk.optimizer.param_groups[0]
    assert {k: after[k] for k in defaults} == defaults  # betas, momentum and all else are as they were


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("stop", [1, 7, 8, 13])
def test_a_schedule_goes_on_where_the_run_does(name, stop, tmp_path):
    walk = Walk(lrs=[0.5, 0.05])
    whole = walk.rates(MAKE[name](walk.optimizer, walk.progress), 24, group=None)
    first = Walk(lrs=[0.5, 0.05])
    schedule = MAKE[name](first.optimizer, first.progress)
    rates = first.rates(schedule, stop, group=None)
    state = {part: getattr(first, part).state_dict() for part in ("progress", "optimizer")}
    torch.save({**state, "schedule": schedule.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)  # tensors and plain values alone
    second = Walk(lrs=[0.5, 0.05])
    again = MAKE[name](second.optimizer, second.progress)
    for part in ("progress", "optimizer"):
        getattr(second, part).load_state_dict(state[part])
    again.load_state_dict(state["schedule"])
    assert rates + second.rates(again, 24 - stop, group=None) == whole


def test_a_state_that_torchs_own_lambda_schedule_saved_is_taken():
    """As checkpoints of earlier versions hold it."""
    walk = Walk(lrs=[0.5])
    earlier = lr_scheduler.LambdaLR(walk.optimizer, lambda _: 1.0)
    schedule = Multistep(walk.optimizer, walk.progress, ["2steps"])
    schedule.load_state_dict(earlier.state_dict())
    assert walk.rates(schedule, 4) == [0.5, 0.5, 0.5 * 0.1, 0.5 * 0.1]


@pytest.mark.parametrize("warmed", [False, True])
def test_levels_are_told_where_the_rate_stays_the_same_for_a_while(warmed):
    walk, at_rest = Walk(), []
    at_rest.append(Constant(walk.optimizer))
    at_rest.append(Multistep(walk.optimizer, walk.progress, ["2epochs", "3epochs"]))
    at_rest.append(Exponential(walk.optimizer, walk.progress, every="2epochs"))
    moving = [Exponential(walk.optimizer, walk.progress, staircase=False), Cyclic(walk.optimizer, walk.progress)]
    moving.append(CosineRestarts(walk.optimizer, walk.progress))
    schedules = at_rest + moving
    if warmed:
        schedules = [WarmUp(schedule, walk.optimizer, walk.progress, "1epochs") for schedule in schedules]
    assert [s.levels() for s in schedules] == [[], ["2epochs", "3epochs"], "2epochs", None, None, None]


def test_a_warm_up_in_front_of_a_schedule_of_torchs_own_has_no_levels():
    walk = Walk()
    step = lr_scheduler.StepLR(walk.optimizer, step_size=2)
    assert WarmUp(step, walk.optimizer, walk.progress, "1epochs").levels() is None


def test_the_last_rates_are_told_as_torch_does():
    walk = Walk(lrs=[0.5, 0.05])
    schedule = CosineRestarts(walk.optimizer, walk.progress, "4steps")
    walk.rates(schedule, 2)
    assert isinstance(schedule, ProgressSchedule)
    assert schedule.get_last_lr() == pytest.approx([0.25, 0.025])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o, p: Cyclic(o, p, base_lr=0.1, max_lr=0.1), r"base_lr=0.1: must be below max_lr=0.1, and not below 0"),
        (
            lambda o, p: Cyclic(o, p, base_lr=-0.1, max_lr=0.1),
            r"base_lr=-0.1: must be below max_lr=0.1, and not below 0",
        ),
        (lambda o, p: Cyclic(o, p, base_lr=0.7), r"base_lr=0.7: must be below max_lr=0.5"),
        (lambda o, p: Cyclic(o, p, window="hat"), "window=hat: must be one of linear, parabolic, sinusoidal"),
        (lambda o, p: Cyclic(o, p, mode="square"), "mode=square: must be one of triangular, triangular2"),
        (lambda o, p: Cyclic(o, p, gamma=0.0), r"gamma=0.0: must be in \(0, 1\]"),
        (lambda o, p: Cyclic(o, p, gamma=1.1), r"gamma=1.1: must be in \(0, 1\]"),
        (lambda o, p: CosineRestarts(o, p, period_mult=0.5), "period_mult=0.5: must be >= 1"),
        (lambda o, p: CosineRestarts(o, p, min_lr=1.5), r"min_lr=1.5: must be in \[0, 1\]"),
        (
            lambda o, p: RangeTest(o, p, "1epochs", base_lr=2.0, max_lr=1.0),
            "base_lr=2.0, max_lr=1.0: must be numbers, base_lr",
        ),
        (lambda o, p: RangeTest(o, p, "1epochs", base_lr=None), "base_lr=None, max_lr=10.0: must be numbers"),
        (lambda o, p: RangeTest(o, p, "1epochs", base_lr=0), "base_lr=0: must be > 0 with mode=exponential"),
        (lambda o, p: RangeTest(o, p, "1epochs", mode="fast"), "mode=fast: must be one of linear, exponential"),
        (lambda o, p: WarmUp(Constant(o), o, p, "1epochs", 1.5), r"start=1.5: must be in \[0, 1\]"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_the_rates_alone(make, message):
    walk = Walk()
    with pytest.raises(ValueError, match=message):
        make(walk.optimizer, walk.progress)
    assert walk.optimizer.param_groups[0]["lr"] == 0.5


def test_a_ratio_to_a_rate_of_zero_is_refused():
    walk = Walk(lrs=[0.0, 0.1])
    walk.optimizer.defaults["lr"] = 0.0
    with pytest.raises(ValueError, match="lr is 0, and 0.1 in a parameter group"):
        Cyclic(walk.optimizer, walk.progress, 0.1, 0.2)


@pytest.mark.parametrize("lrs", [[0.125, 0.25, 0.5], [2.0, 0.5], [0.0, 0.5], [0.05, 0.1]])
@pytest.mark.parametrize("base_lr", [0.001, None])
def test_absolute_rates_are_for_groups_with_the_optimizers_own(lrs, base_lr):
    """As torch's schedules have it whose bounds are given for each group; the optimizer's own rate is 0.5."""
    low = 0.1 / 4 if base_lr is None else base_lr
    factors = [lr / 0.5 for lr in lrs]
    walk, torchs = Walk(lrs=lrs), Walk(lrs=lrs)
    schedule = Cyclic(walk.optimizer, walk.progress, base_lr, 0.1, "6steps")
    bounds = [low * f for f in factors], [0.1 * f for f in factors]
    peer = lr_scheduler.CyclicLR(torchs.optimizer, *bounds, 6, cycle_momentum=False)
    for mine, theirs in zip(walk.rates(schedule, 14, None), torchs.rates(peer, 14, None), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)
    walk = Walk(lrs=lrs)
    ends = walk.rates(RangeTest(walk.optimizer, walk.progress, "4steps", 0.01, 1.0), 5, None)
    assert ends[0] == pytest.approx([0.01 * f for f in factors], rel=1e-12)
    assert ends[-1] == pytest.approx(factors, rel=1e-12)


def test_one_bound_of_two_is_for_groups_with_the_optimizers_own_rate():
    walk = Walk(lrs=[0.05, 0.5])
    rates = walk.rates(Cyclic(walk.optimizer, walk.progress, base_lr=0.1, step_up="4steps"), 9, None)
    assert [rates[0], rates[4]] == [pytest.approx([0.01, 0.1]), pytest.approx([0.05, 0.5])]


def test_a_run_of_an_earlier_version_goes_on_with_its_rates():
    """There the bounds were for the first group; the state said nothing of it."""
    walk = Walk(lrs=[0.25, 0.5])
    schedule = Cyclic(walk.optimizer, walk.progress, 0.1, 0.9, "3steps")
    state = schedule.state_dict()
    del state["reference_lr"]
    schedule.load_state_dict(state)
    walk.rates(schedule, 3)
    assert [group["lr"] for group in walk.optimizer.param_groups] == pytest.approx([0.9, 1.8])


@pytest.mark.parametrize("name", ["cyclic", "warm-up"])
def test_an_optimizer_without_a_rate_is_refused(name):
    walk = Walk()
    del walk.optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="SGD has no lr in its parameter groups"):
        MAKE[name](walk.optimizer, walk.progress)
