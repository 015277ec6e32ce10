"""The range test: bounds read off curves whose bounds are known, and whole runs of it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from helpers.runs import rows, stop_at, summary, train_run
from trainopt.runner.reporting.range_test import by_learning_rate, read_bounds, report_bounds

RUN = ("schedule=range_test", "model=mlp", "logger=none", "run.name=a")


def curve(count, corners, values, noise, seed=0, low=1e-5, high=10.0):
    """Rates of an exponential rise, and accuracy that is linear in their logarithm between corners."""
    rates = np.geomspace(low, high, count)
    accuracy = np.interp(np.log(rates), np.log(corners), values)
    drawn = accuracy + noise * np.random.default_rng(seed).standard_normal(count)
    return rates, np.clip(drawn, 0, 100)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "noise"), [(120, 0.0), (120, 3.0), (400, 4.0), (3000, 8.0)])
def test_bounds_are_found_on_a_curve_that_rises_and_falls(count, noise, seed):
    rates, accuracy = curve(count, [1e-3, 1e-2, 0.3, 1.0], [10, 90, 90, 10], noise, seed)
    bounds = read_bounds(rates, accuracy)
    assert (bounds["low_note"], bounds["high_note"]) == (None, None)
    # a tenth of the way up and down, and the average's width: a twentieth of six decades is a factor of 2
    assert 1e-3 < bounds["low"] < 2.2e-3
    assert 0.2 < bounds["high"] < 0.45


def test_bounds_of_a_linear_rise_are_found():
    rates = np.linspace(1e-5, 1.0, 2000)
    accuracy = np.interp(rates, [0.1, 0.3, 0.6, 0.8], [20, 60, 60, 15])
    accuracy += 3 * np.random.default_rng(1).standard_normal(2000)
    bounds = read_bounds(rates, accuracy)
    assert bounds["low"] == pytest.approx(0.12, abs=0.04)
    assert bounds["high"] == pytest.approx(0.62, abs=0.04)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_has_no_bounds(seed):
    rates, accuracy = curve(300 * (seed + 1), [1e-5, 10], [20, 20], 3.0, seed)
    bounds = read_bounds(rates, accuracy)
    assert (bounds["low"], bounds["high"]) == (None, None)
    assert (bounds["low_note"], bounds["high_note"]) == ("accuracy never rises", "accuracy never falls")
    assert not any("schedule.base_lr" in line for line in report_bounds({**bounds, "from": "train", "points": 500}))


def test_what_never_falls_has_its_bound_at_the_edge():
    bounds = read_bounds(*curve(300, [1e-3, 1e-2], [10, 90], 3.0))
    assert 1e-3 < bounds["low"] < 2.2e-3
    assert bounds["high"] == 10
    assert bounds["high_note"] == "the highest learning rate of the test: accuracy never falls"


def test_what_rises_at_once_has_its_bound_at_the_edge():
    bounds = read_bounds(*curve(300, [1e-5, 1e-4, 0.1, 1], [10, 90, 90, 10], 2.0))
    assert bounds["low"] == 1e-5
    assert bounds["low_note"] == "the lowest learning rate of the test: accuracy rises at once"


def test_a_trained_network_never_rises_and_falls():
    bounds = read_bounds(*curve(300, [0.1, 1], [95, 10], 2.0))
    assert (bounds["low"], bounds["low_note"]) == (None, "accuracy never rises")
    assert 0.07 < bounds["high"] < 0.16
    last = report_bounds({**bounds, "from": "validation", "points": 300})[-1]
    assert last == f"schedule=cyclic schedule.base_lr=null schedule.max_lr={bounds['high']:g}"


def test_a_few_points_have_no_bounds():
    bounds = read_bounds(np.arange(1.0, 10.0), np.arange(9.0))
    assert bounds["low"] is bounds["high"] is None
    assert bounds["low_note"] == "9 measurements are too few"


# Made-up curves of 300 points: the corners of accuracy and of loss, the noise of both, and what a reader says of low
# and high: (from, to), the lowest or highest learning rate of the test, or None.
LOWEST, HIGHEST = 1e-5, 10.0
MADE_UP = {
    "loss turns before accuracy": (
        ([1e-3, 1e-2, 0.3, 1], [10, 90, 90, 10], 3),
        ([1e-3, 2e-2, 5e-2, 1], [2.3, 0.1, 0.1, 4], 0.05),
        (1e-3, 2.2e-3),
        (0.04, 0.08),
    ),
    "accuracy turns before loss": (
        ([1e-3, 1e-2, 0.05, 0.5], [10, 90, 90, 10], 3),
        ([1e-3, 1e-2, 0.5, 1], [2.3, 0.2, 0.2, 4], 0.02),
        (1e-3, 2.2e-3),
        (0.04, 0.09),
    ),
    "a long plateau": (
        ([1e-4, 1e-3, 1, 3], [10, 95, 95, 10], 4),
        ([1e-4, 1e-3, 1, 3], [2.3, 0.2, 0.2, 9], 0.05),
        (1e-4, 2.2e-4),
        (0.7, 1.5),
    ),
    "a dip in a plateau, which recovers": (
        ([1e-3, 1e-2, 0.1, 0.12, 0.14, 1, 3], [10, 95, 95, 91, 95, 95, 10], 5),
        ([1e-3, 1e-2, 1, 3], [2.3, 0.2, 0.2, 9], 0.05),
        (1e-3, 2.2e-3),
        (0.7, 1.5),
    ),
    "a slow fall after a sharp peak": (
        ([1e-3, 0.03, 10], [10, 90, 10], 2),
        ([1e-3, 0.03, 10], [2.3, 0.2, 3], 0.01),
        (1e-3, 2.6e-3),
        (0.025, 0.06),
    ),
    "immediate divergence": (
        ([1e-5, 3e-5], [60, 10], 2),
        ([1e-5, 3e-5, 1e-4], [1, 3, 1e20], 0.1),
        None,
        (1e-5, 3e-5),
    ),
    "better and better": (
        ([1e-3, 10], [10, 95], 3),
        ([1e-3, 10], [2.3, 0.1], 0.05),
        (1e-3, 5e-3),
        HIGHEST,
    ),
    "better at once": (
        ([1e-5, 1e-3, 0.1, 1], [10, 95, 95, 10], 3),
        ([1e-5, 1e-3, 0.1, 1], [2.3, 0.2, 0.2, 4], 0.05),
        LOWEST,
        (0.07, 0.15),
    ),
    "noise": (([1e-5], [20], 5), ([1e-5], [2.3], 0.3), None, None),
    "flat": (([1e-5], [20.1], 0), ([1e-5], [2.3], 0), None, None),
    "accuracy is flat, loss is not": (
        ([1e-5], [0.1], 0.05),
        ([1e-3, 0.1, 0.3, 1], [6.9, 6.0, 6.0, 9], 0.01),
        (1e-3, 8e-3),
        (0.2, 0.4),
    ),
}


def agrees(bound, reader) -> bool:
    return reader[0] < bound < reader[1] if isinstance(reader, tuple) and bound is not None else bound == reader


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MADE_UP)
def test_bounds_of_made_up_curves_are_those_of_a_reader(name, seed):
    of_accuracy, (corners, values, noise), low, high = MADE_UP[name]
    rates, accuracy = curve(300, *of_accuracy, seed)
    loss = np.exp(np.interp(np.log(rates), np.log(corners), np.log(values)))
    loss *= np.exp(noise * np.random.default_rng(seed + 100).standard_normal(300))
    bounds = read_bounds(rates, accuracy, loss)
    assert agrees(bounds["low"], low), bounds
    assert agrees(bounds["high"], high), bounds


# What a reader says of the curves in range_tests.npz, each of a short run: the network, the data, the optimizer, and
# where low and high lie.
REAL = {
    "resnet8 digits sgd": ((8e-5, 3e-4), (0.03, 0.08)),
    "mlp digits sgd": ((3e-3, 1.3e-2), (0.09, 0.16)),
    "mlp digits adam": ((1.5e-4, 1e-3), (8e-3, 2e-2)),
    "linear digits sgd": ((1.5e-4, 8e-4), (0.3, 0.6)),
    "mlp digits rmsprop": ((2e-4, 1.5e-3), (0.02, 0.05)),
    "mlp mnist sgd": ((1e-3, 5e-3), (0.04, 0.12)),
    "mlp mnist adam": ((2e-5, 1e-4), (4e-3, 1.2e-2)),
    "resnet8 digits adam": ((5e-5, 2e-4), (0.01, 0.03)),
    "resnet8 cifar10 sgd": ((1e-3, 2e-2), (0.08, 0.25)),
    "mlp digits adagrad": ((5e-3, 1.8e-2), (0.2, 0.75)),
    "mlp digits sgd, validation": ((1.5e-3, 6e-3), (0.1, 0.2)),
    "linear digits sgd, to 1e38": ((2e-3, 2e-2), (0.5, 5)),
    "mlp digits sgd, linear": ((0, 0.03), (0.15, 0.22)),
}


@pytest.mark.parametrize("name", REAL)
def test_bounds_of_real_curves_are_those_of_a_reader(name):
    with np.load(Path(__file__).with_name("range_tests.npz")) as content:
        rates, accuracy, loss = content[name].astype(float)
    bounds = read_bounds(rates, accuracy, loss)
    low, high = REAL[name]
    assert agrees(bounds["low"], low), bounds
    assert agrees(bounds["high"], high), bounds


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_an_end_that_is_not_finite_changes_nothing(unknown):
    rates, accuracy = curve(300, [1e-3, 1e-2, 0.3, 1], [10, 90, 90, 10], 3.0)
    loss = 3 - accuracy / 50
    whole = read_bounds(rates[:290], accuracy[:290], loss[:290])
    accuracy[290:], loss[290:] = np.nan, unknown
    assert read_bounds(rates, accuracy, loss) == whole


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10, 11, 39, 40])
def test_any_number_of_points_is_read(count):
    rates = np.geomspace(1e-5, 10, count)
    bounds = read_bounds(rates, np.linspace(10, 90, count), np.linspace(2, 1, count))
    assert bounds["high"] == (10 if count > 9 else None)


def hashes(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return len(content)


@pytest.mark.slow
@pytest.mark.draws
def test_a_run_ends_with_figure_and_bounds_and_leaves_all_else_alone(trainopt, trained, tmp_path):
    trained("model=mlp", "duration=1epochs", name="other")
    before = hashes(tmp_path)
    weights = "model.weights=outputs/other/checkpoints/best.pt"
    result = trainopt(*RUN, "duration=180steps", weights)
    assert result.code == 0, result.err
    assert {path: digest for path, digest in hashes(tmp_path).items() if path in before} == before
    folder = tmp_path / "outputs/a"
    train = rows(folder, "train")
    assert [row["step"] for row in train] == list(range(1, 181))  # a row a step
    assert [row["lr"] for row in train] == pytest.approx([10 ** (-5 + 6 * k / 180) for k in range(180)])
    assert png_size(folder / "range_test.png") > 20_000
    found = summary(folder)["range_test"]
    assert (found["from"], found["points"]) == ("train", 180)
    assert 1e-4 < found["low"] < 0.1 < found["high"] < 10
    lines = result.out.strip().splitlines()
    assert lines[-1] == f"schedule=cyclic schedule.base_lr={found['low']:g} schedule.max_lr={found['high']:g}"
    assert "range_test.png" in next(line for line in lines if line.startswith("files: "))
    assert not (folder / "checkpoints/best.pt").exists()
    (folder / "curves.png").unlink()
    (folder / "range_test.png").unlink()
    again = trainopt(*RUN, "duration=180steps", weights)  # the same command shows the result
    assert "already finished" in again.out
    assert again.out.strip().splitlines()[-1] == lines[-1]
    assert png_size(folder / "range_test.png") > 20_000
    pasted = trained("model=mlp", "log_every=1steps", "duration=3steps", *lines[-1].split(), name="b")
    assert rows(pasted, "train")[0]["lr"] == found["low"]


@pytest.mark.slow
@pytest.mark.draws
def test_one_that_diverges_is_drawn_and_read_from_what_was_measured(trainopt, tmp_path):
    result = trainopt(*RUN, "duration=10epochs", "model.hidden=[]", "schedule.max_lr=1e38")
    assert result.code == 0, result.err
    folder = tmp_path / "outputs/a"
    found = summary(folder)
    assert found["status"] == "diverged"
    assert found["range_test"]["points"] == found["steps"] < 120
    assert 0 < found["range_test"]["low"] < found["range_test"]["high"] < 1e38
    assert png_size(folder / "range_test.png") > 20_000
    assert "diverged: the loss became" in result.out
    assert result.out.strip().splitlines()[-1].startswith("schedule=cyclic schedule.base_lr=")


def test_it_ends_when_it_is_over(trainopt, tmp_path):
    """Long before the run's duration; in the middle of an epoch, with an evaluation."""
    command = (*RUN, "schedule.over=20steps", "schedule.mode=linear", "schedule.base_lr=0.001")
    result = trainopt(*command)
    assert "a range test, which takes 20steps" in result.out
    folder = tmp_path / "outputs/a"
    assert (summary(folder)["status"], summary(folder)["steps"]) == ("finished", 20)
    assert not summary(folder)["stopped_early"]
    assert [row["step"] for row in rows(folder, "test")] == [0, 12, 20]
    lrs = [row["lr"] for row in rows(folder, "train")]
    assert lrs == pytest.approx([0.001 + 9.999 * k / 20 for k in range(20)])
    assert (folder / "range_test.png").exists()


def test_a_run_that_is_shorter_ends_before_it(trained):
    assert summary(trained(*RUN, "schedule.over=3epochs", "duration=12steps"))["steps"] == 12


def test_an_interrupted_one_has_no_bounds_yet(tmp_path, monkeypatch):
    stop_at(monkeypatch, 4)
    assert train_run(tmp_path, *RUN, "duration=3epochs") == 130
    assert "range_test" not in summary(tmp_path)


def test_bounds_are_read_from_held_out_images_where_they_were_evaluated_often(trainopt, tmp_path):
    command = (*RUN, "data.validation=0.2", "duration=54steps", "evaluate_every=2steps")
    assert "points on the validation set" in trainopt(*command).out
    folder = tmp_path / "outputs/a"
    found = summary(folder)["range_test"]
    assert (found["from"], found["points"]) == ("validation", 28)
    rates, (values,) = by_learning_rate(rows(folder), "validation", "top1")
    by_step = {0: 1e-5, **{row["step"]: row["lr"] for row in rows(folder, "train")}}
    assert rates.tolist() == [by_step[row["step"]] for row in rows(folder, "validation")]
    assert values.tolist() == [row["top1"] for row in rows(folder, "validation")]


@pytest.mark.slow
@pytest.mark.draws
def test_bounds_of_a_test_function_are_read_from_its_loss(trainopt, tmp_path):
    command = ("schedule=range_test", "model=function", "data=none", "duration=220steps", "run.name=a")
    result = trainopt(*command, "schedule.max_lr=0.1")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "outputs/a/summary.json").read_text())["range_test"]
    assert found["low_by"] == found["high_by"] == "loss"
    assert 0.001 < found["high"] < 0.05
    assert f"loss begins to rise at {found['high']:g}" in result.out
    assert png_size(tmp_path / "outputs/a/range_test.png") > 10_000
