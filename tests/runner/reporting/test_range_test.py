"""The range test: bounds read off curves whose bounds are known, and whole runs of it."""

import hashlib
import json

import numpy as np
import pytest

from helpers.runs import rows, stop_at, summary, train_run
from trainopt.runner.reporting.range_test import by_learning_rate, read_bounds, report_bounds

pytestmark = pytest.mark.draws

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
    assert bounds["low_note"] == "9 measurements of accuracy are too few"


def hashes(folder):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return len(content)


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
    assert png_size(folder / "range_test.png") > 20_000


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
    rates, values = by_learning_rate(rows(folder), "validation", "top1")
    by_step = {0: 1e-5, **{row["step"]: row["lr"] for row in rows(folder, "train")}}
    assert rates.tolist() == [by_step[row["step"]] for row in rows(folder, "validation")]
    assert values.tolist() == [row["top1"] for row in rows(folder, "validation")]


def test_a_test_function_has_no_accuracy_to_read_bounds_from(trainopt, tmp_path):
    command = ("schedule=range_test", "model=function", "data=none", "duration=30steps", "run.name=a")
    result = trainopt(*command, "schedule.max_lr=0.001")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "outputs/a/summary.json").read_text())["range_test"]
    assert found["low"] is found["high"] is None
    assert png_size(tmp_path / "outputs/a/range_test.png") > 10_000
    assert "none; 0 measurements of accuracy are too few" in result.out
