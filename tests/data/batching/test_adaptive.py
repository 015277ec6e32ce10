"""Adaptive batch sizes on synthetic measurements: decisions computed by hand, bounds, smoothing, saved states."""

import json
from types import SimpleNamespace

import pytest

from trainopt.data import (
    AdaptiveBatchSize,
    FollowReference,
    GrowthControl,
    NormTest,
    Position,
    Proposal,
    ReferenceTrajectory,
)

STEPS = 10  # an epoch


def progress(step, repeat=0, every=10):
    """A run after so many steps, ten an epoch; the controller's duration lasts `every` of them."""
    return SimpleNamespace(
        step=step, repeat=repeat, epochs=(step - repeat) / STEPS, elapsed=lambda duration: step / every
    )


def decisions(batching, rows, steps=None, every=10):
    """(size, factor on the learning rate) after each row that led to a decision; rows come every five steps."""
    steps = steps or range(5, 5 * len(rows) + 1, 5)
    observed = [batching.observe(row, progress(step, every=every)) for row, step in zip(rows, steps, strict=True)]
    return [(row["batch_size"], row["lr_factor"]) for row in observed if row is not None]


def linear(C=0.0, L=0.0, count=8):
    """Rows at half epochs, with C_K and L_K that grow by so much an epoch."""
    return [{"C_K": 5 + C * i / 2, "L_K": L * i / 2} for i in range(1, count + 1)]


def test_the_learning_rate_responds_to_the_growth_of_L_and_the_size_to_that_of_C():
    # C_K grows by 3 an epoch, at most 2 is allowed: half of the size, at epochs 1, 2, 3 and 4; it begins with 64.
    # L_K by 6, at most 4: the learning rate times 4/6 each time
    batching = GrowthControl(C_growth=[0, 2], L_growth=[1, 4], size=64, min_size=10, smoothing=0.0)
    results = decisions(batching, linear(C=3, L=6))
    assert [size for size, _ in results] == [32, 16, 10, 10]
    assert [lr for _, lr in results] == pytest.approx([2 / 3, 4 / 9, 8 / 27, 16 / 81])


def test_slow_growth_has_the_opposite_effect():
    # C_K grows by 0.5, at least 1; L_K by 2, at least 3: the learning rate times 3/2
    batching = GrowthControl(C_growth=[1, 2], L_growth=[3, 4], size=64, max_size=200, smoothing=0.0)
    results = decisions(batching, linear(C=0.5, L=2, count=4))
    assert [size for size, _ in results] == [128, 200]
    assert [lr for _, lr in results] == pytest.approx([1.5, 2.25])


def test_without_the_learning_rate_the_size_responds_to_the_growth_of_L():
    # 8 where 1 is allowed: 8^(2/3) = 4 times the size, or 2 times, the largest change; then 1/8 where 1 is the least
    options = {"adjust": ["size"], "size": 64, "smoothing": 0.0, "factor": 100.0}
    assert decisions(GrowthControl(L_growth=[0, 1], **options), linear(L=8, count=2)) == [(256, 1.0)]
    assert decisions(GrowthControl(L_growth=[0, 1], **{**options, "factor": 2}), linear(L=8, count=2)) == [(128, 1)]
    assert decisions(GrowthControl(L_growth=[1, 2], **options, min_size=1), linear(L=1 / 8, count=2)) == [(16, 1.0)]


def test_opposite_proposals_leave_the_size():
    batching = GrowthControl(C_growth=[0, 2], L_growth=[0, 1], adjust=["size"], size=64, smoothing=0.0)
    rows = linear(C=3, L=8, count=2)
    assert batching.observe(rows[0], progress(5)) is None
    decision = batching.observe(rows[1], progress(10))
    assert (decision["batch_size"], decision["lr_factor"]) == (64, 1.0)
    assert decision["reason"] == (
        "C_K grows by 3 an epoch, above 2, L_K grows by 8 an epoch, above 1; they suggest opposite sizes"
    )


def test_the_average_is_exponential_unbiased_and_restarts_after_a_change():
    # growth of L_K between measurements, half epochs apart: 2, 4, 8, then 2, 2
    levels = [0, 1, 3, 7, 8, 9]
    rows = [{"C_K": 1.0, "L_K": float(level)} for level in levels]
    batching = GrowthControl(L_growth=[0, 3], adjust=["lr"], smoothing=0.5)
    results = [batching.observe(row, progress(5 * i, every=15)) for i, row in enumerate(rows, start=1)]
    # the first decision at step 15 over growths 2, 4: (0.5 * 2 + 4) / 1.5; the next at step 30 over 8, 2, 2
    first, second = (0.5 * 2 + 4) / 1.5, (0.25 * 8 + 0.5 * 2 + 2) / 1.75
    assert [row and row["L_growth"] for row in results] == [
        *(None, None, pytest.approx(first), None, None, pytest.approx(second))
    ]
    assert results[2]["lr_factor"] == pytest.approx(3 / first)
    assert results[5]["lr_factor"] == results[2]["lr_factor"]  # within the bounds


def test_repeats_of_a_batch_measure_no_growth():
    batching = GrowthControl(L_growth=[0, 1], smoothing=0.0)
    row = {"C_K": 1.0, "L_K": 1.0}
    assert batching.observe(row, progress(10, repeat=5)) is None
    assert batching.observe({**row, "L_K": 9.0}, progress(12, repeat=7)) is None  # at the same place in the data
    assert batching.observe({**row, "L_K": 3.0}, progress(25, repeat=0))["L_growth"] == 1.0  # 2 in 2 epochs


def test_values_that_are_not_finite_are_skipped():
    batching = GrowthControl(L_growth=[0, 1], smoothing=0.0)
    rows = linear(L=1, count=4)
    rows[1]["C_K"], rows[2]["L_K"] = float("inf"), None
    assert [batching.observe(row, progress(5 * i)) for i, row in enumerate(rows, start=1)][:3] == [None] * 3


REFERENCE = ReferenceTrajectory(epochs=[0.5, 1.0, 2.0, 3.0], C_K=[10.0, 10.0, 12.0, 14.0], L_K=[1.0, 2.0, 4.0, 4.5])


def trajectory(count):
    """A reference of so many measurements, half an epoch apart: C_K grows by 2, L_K by 3 an epoch."""
    numbers = range(1, count + 1)
    return ReferenceTrajectory([i / 2 for i in numbers], [10 + i for i in numbers], [1.5 * i for i in numbers])


def test_a_run_is_led_back_to_the_trajectory_of_its_reference():
    options = {"size": 64, "smoothing": 0.0, "tolerance": 0.25, "factor": 4.0}
    batching = FollowReference(REFERENCE, **options)
    # At epoch 1, h = 1: C* = 12 and L* = 4 at epoch 2. With C_K = 10 and L_K = 2 now, C_K is to grow by
    # 9 - 10 = -1 to 15 - 10 = 5, L_K by 3 - 2 = 1 to 5 - 2 = 3.
    rows = [{"C_K": 9.0, "L_K": 1.0}, {"C_K": 10.0, "L_K": 2.0}]  # they grow by 2 and by 2
    assert decisions(batching, rows) == [(64, 1.0)]
    # At epoch 2, h = 1: C* = 14, L* = 4.5 at epoch 3. With C_K = 16, L_K = 5 now: C_K by 10.5 - 16 = -5.5 to
    # 17.5 - 16 = 1.5; L_K by 3.375 - 5 to 5.625 - 5 = 0.625. They grow by 4 and by 2, 3.2 times as fast.
    rows = [{"C_K": 14.0, "L_K": 4.0}, {"C_K": 16.0, "L_K": 5.0}]
    assert decisions(batching, rows, steps=[15, 20]) == [(16, pytest.approx(1 / 3.2))]
    # at epoch 3 there is no reference for epoch 4
    after = batching.observe({"C_K": 20.0, "L_K": 20.0}, progress(30))
    assert (after["batch_size"], after["lr_factor"]) == (16, pytest.approx(1 / 3.2))
    assert after["reason"] == "the reference has no such epoch"


def test_a_run_on_the_trajectory_of_its_reference_stays_as_it_is():
    run = trajectory(8)
    batching = FollowReference(run, smoothing=0.9, tolerance=0.01)
    rows = [{"C_K": C, "L_K": L} for C, L in zip(run.C_K, run.L_K, strict=True)]
    assert decisions(batching, rows) == [(32, 1.0)] * 4


def test_the_learning_rate_alone_follows_L_and_leaves_C():
    batching = FollowReference(REFERENCE, adjust=["lr"], smoothing=0.0, factor=10.0, tolerance=0.0)
    # at epoch 1: L* = 4 at epoch 2, so L_K is to grow by 2; it grows by 1
    assert decisions(batching, [{"C_K": 90.0, "L_K": 1.5}, {"C_K": 99.0, "L_K": 2.0}]) == [(32, 2.0)]


def test_the_norm_test_enlarges_to_the_size_that_passes_and_never_reduces():
    batching = NormTest(theta=0.5, size=10, max_size=100, smoothing=0.0, factor=4.0)
    # allowed is 0.25 |g|^2; variance / 10 must not be more
    rows = [(25.0, 10.0), (25.1, 10.0), (26.0, 1.0), (1.0, 1.0), (30.0, 1.0), (5.0, 0.0)]
    rows = [{"gradient_variance": variance, "mean_gradient_norm_sq": norm} for variance, norm in rows]
    results = [batching.observe(row, progress(10 * i)) for i, row in enumerate(rows, start=1)]
    # 2.5 <= 2.5; 2.51 > 2.5: 25.1 / 2.5 = 10.04; 26 / 0.25 = 104 but four times 11; 1 / 44; 120 but 100; endless
    assert [row["batch_size"] for row in results] == [10, 11, 44, 44, 100, 100]
    assert results[0]["reason"] == "norm test: variance / size 2.5 <= theta^2 |g|^2 2.5"
    assert (
        results[2]["reason"] == "norm test: variance / size 2.364 > theta^2 |g|^2 0.25; clamped, proposed was size 104"
    )
    assert {row["lr_factor"] for row in results} == {1.0}


class Echo(AdaptiveBatchSize):
    """Proposes what it measures."""

    def measure(self, values, epochs):
        return values

    def propose(self, measures):
        return Proposal(measures["size"], measures["lr"], "as measured")


def echo(adjust=("size", "lr"), **more):
    return Echo(size=32, min_size=8, max_size=100, adjust=adjust, lr_bounds=[0.2, 3.0], smoothing=0.0, **more)


@pytest.mark.parametrize(
    ("proposed", "expected"),
    [
        ((32, 1.0), (32, 1.0)),
        ((40.4, 1.5), (40, 1.5)),
        ((1000, 1000), (64, 2.0)),
        ((0, 0), (16, 0.5)),
        ((float("inf"), 1e-300), (64, 0.5)),
    ],
)
def test_a_decision_stays_within_its_factor(proposed, expected):
    decision = echo().observe(dict(zip(("size", "lr"), proposed, strict=True)), progress(10))
    assert (decision["batch_size"], decision["lr_factor"]) == expected
    assert ("; clamped, proposed was " in decision["reason"]) == (expected in [(64, 2.0), (16, 0.5), (64, 0.5)])


def test_what_is_not_adjusted_stays():
    proposed = [{"size": 1e9, "lr": 1e9}] * 4
    assert set(decisions(echo(["size"]), proposed)) == {(64, 1.0), (100, 1.0)}
    assert set(decisions(echo(["lr"]), proposed)) == {(32, 2.0), (32, 3.0)}


def test_the_bounds_hold_for_any_proposal():
    batching = echo()
    up = decisions(batching, [{"size": 1e9, "lr": 1e9}] * 6)
    down = decisions(batching, [{"size": 0, "lr": 0}] * 12, steps=range(35, 95, 5))
    assert (up[-1], down[-1]) == ((100, 3.0), (8, 0.2))
    assert all(8 <= size <= 100 and 0.2 <= lr <= 3 for size, lr in up + down)


def test_there_is_at_most_one_decision_in_each_period():
    results = [row and row["batch_size"] for row in observed(echo(), range(4, 45, 4))]
    # due at 10, 20, 30, 40: at the first measurements from there on
    assert results == [None, None, 64, None, 100, None, None, 100, None, 100, None]


def observed(batching, steps):
    return [batching.observe({"size": 1e9, "lr": 1.0}, progress(step)) for step in steps]


def sizes_from(batching, step, count, updates):
    """The sizes of batches from one that begins at a step, each used so often."""
    return [batching.size_at(Position(0, 0, 0, step + i * updates), 1000) for i in range(count)]


def test_size_and_learning_rate_hold_from_the_next_batch_on():
    batching = echo(persistency=7)
    # the batch that began at step 7 has had 3 of 7 updates at step 10
    assert batching.observe({"size": 64, "lr": 2.0}, progress(10, repeat=3))["batch_size"] == 64
    assert sizes_from(batching, 7, 3, 7) == [32, 64, 64]
    assert [batching.lr_factor(Position(0, 0, 0, step), 1000) for step in (7, 14)] == [1.0, 2.0]
    # a second one within the repeats of the same batch, and one at the end of the next
    assert batching.observe({"size": 100, "lr": 2.0}, progress(20, repeat=6))["batch_size"] == 100
    assert sizes_from(batching, 14, 2, 7) == [64, 100]
    assert batching.observe({"size": 50, "lr": 2.0}, progress(35, repeat=0))["batch_size"] == 50
    assert sizes_from(batching, 35, 2, 7) == [50, 50]


def test_two_decisions_within_a_batch_leave_that_batch_unchanged():
    batching = echo(persistency=30)
    for step in (10, 20):
        batching.observe({"size": 100, "lr": 1.0}, progress(step, repeat=step))
    assert sizes_from(batching, 0, 2, 30) == [32, 100]


@pytest.mark.parametrize("stop", range(1, 12))
def test_resumed_in_the_middle_it_decides_the_same(stop):
    run = trajectory(19)
    rows = [{"C_K": 5 + 1.3**i, "L_K": 2 * i**1.2} for i in range(12)]
    for i, row in enumerate(rows):
        row |= {"gradient_variance": 9.0 * i, "mean_gradient_norm_sq": 1.0}
    kinds = {
        "growth": lambda: GrowthControl(C_growth=[0, 0.5], L_growth=[1, 4], smoothing=0.7),
        "reference": lambda: FollowReference(run, smoothing=0.7),
        "norm test": lambda: NormTest(smoothing=0.7, size=8),
    }
    for make in kinds.values():
        whole, one, other = make(), make(), make()
        expected = [whole.observe(row, progress(5 * i)) for i, row in enumerate(rows, start=1)]
        parts = [one.observe(row, progress(5 * i)) for i, row in enumerate(rows[:stop], start=1)]
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))  # plain values
        parts += [other.observe(row, progress(5 * i)) for i, row in enumerate(rows[stop:], start=stop + 1)]
        assert parts == expected
        assert len({row["batch_size"] for row in expected if row}) > 1
        assert other.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            GrowthControl,
            "C_growth and L_growth are both null: give the growth per epoch, as L_growth=.*",
        ),
        (lambda: GrowthControl([2, 1]), r"C_growth=\[2, 1\]: must be \[lowest, highest\], as \[0, 5\]"),
        (lambda: GrowthControl(None, [-1, 1]), r"L_growth=\[-1, 1\]: must be >= 0; L_K never falls"),
        (
            lambda: GrowthControl([0, 1], adjust=["lr"]),
            "C_growth: the learning rate does not change C_K; give null,.*",
        ),
        (lambda: GrowthControl([0, 1], adjust=[]), r"adjust=\[\]: must be \[size\], \[lr\] or \[size,lr\]"),
        (lambda: GrowthControl([0, 1], adjust=["rate"]), r"adjust=\['rate'\]: must be .*"),
        (lambda: GrowthControl([0, 1], size=4), "size=4: must be between min_size=8 and max_size=512, all >= 1"),
        (
            lambda: GrowthControl([0, 1], lr_bounds=[2, 3]),
            r"lr_bounds=\[2, 3\]: must be factors > 0, the first .*",
        ),
        (lambda: GrowthControl([0, 1], factor=1), "factor=1: must be > 1"),
        (lambda: GrowthControl([0, 1], smoothing=1), r"smoothing=1: must be in \[0, 1\)"),
        (lambda: NormTest(theta=0), "theta=0: must be > 0"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()
