"""Test functions as runs: records, summaries, figures, resuming, sweeps, and what is refused."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import rosen, rosen_der

from helpers.cli import refusal
from helpers.runs import rows, summary
from trainopt.models import FUNCTIONS
from trainopt.runner import load_run
from trainopt.runner.reporting.trajectory import draw_trajectory, window

FUNCTION = ("model=function", "data=none", "logger=none", "log_every=1steps")
RUN = (*FUNCTION, "optimizer.lr=0.001", "optimizer.momentum=0", "duration=12steps", "evaluate_every=3steps")


def descent(start, gradient, lr, steps):
    """The points of gradient descent."""
    points = [np.array(start)]
    for _ in range(steps):
        points.append(points[-1] - lr * gradient(points[-1]))
    return points


def test_a_run_is_gradient_descent_and_each_row_is_of_one_point(trained, tmp_path):
    trained(*RUN)
    points = descent([-1.2, 1.0], rosen_der, 0.001, 12)
    trains, tests = rows(tmp_path / "outputs/a", "train"), rows(tmp_path / "outputs/a", "test")
    assert [row["step"] for row in trains] == list(range(1, 13))
    assert [row["step"] for row in tests] == [0, 3, 6, 9, 12]
    for row in trains:  # the loss was computed before the update that the row is about
        assert row["theta"] == pytest.approx(points[row["step"] - 1], rel=1e-12)
        assert row["value"] == row["total"] == pytest.approx(rosen(row["theta"]), rel=1e-12)
        assert row["batch_size"] == 1
        assert "top1" not in row
    for row in tests:
        assert row["theta"] == pytest.approx(points[row["step"]], rel=1e-12)
        assert row["loss"] == pytest.approx(rosen(row["theta"]), rel=1e-12)
        assert not {"top1", "top5"} & row.keys()


def test_the_summary_has_no_accuracies_and_the_lowest_loss_is_the_best(trainopt, tmp_path):
    result = trainopt(*RUN, "run.name=a", "logger=tensorboard")
    folder = tmp_path / "outputs/a"
    found, last = summary(folder), rows(folder, "test")[-1]
    assert found["status"] == "finished"
    assert found["final"] == {"loss": last["loss"], "top1": None, "top5": None, "step": 12, "epoch": 12.0}
    assert found["best_top1"] is None
    assert found["classes"] is None
    assert found["lowest_loss"]["value"] == min(row["loss"] for row in rows(folder, "test"))
    assert (found["epochs"], found["parameters"]) == (12, 2)
    best = torch.load(folder / "checkpoints/best.pt", weights_only=True)
    assert best["model"]["theta"].tolist() == last["theta"]
    assert best["model"]["theta"].dtype == torch.float64
    assert {"curves.png", "path.png"} <= {p.name for p in folder.iterdir()}
    assert "top-1" not in result.out
    assert "images" not in result.out
    assert load_run(folder).metrics["theta"].iloc[-1] == last["theta"]
    assert "already finished" in trainopt(*RUN, "run.name=a", "logger=tensorboard").out


def test_evaluate_prints_value_and_point(trained, trainopt):
    trained(*FUNCTION, "model.function=quadratic", "optimizer=newton", "duration=1steps")
    result = trainopt("evaluate", "outputs/a", "--checkpoint", "last")
    assert result.code == 0
    assert "last.pt, step 1: value 5 at theta = [0.0, 0.0]" in result.out


def test_runs_are_compared_by_their_losses(trained, trainopt, tmp_path):
    for lr in ("0.01", "0.1", "1e200"):
        trained(*RUN, "model.function=quadratic", f"optimizer.lr={lr}", name=lr)
    result = trainopt("compare", "outputs", "--out", "cmp")
    assert result.code == 0, result.err
    assert "final loss" in result.out
    assert "top-1" not in result.out
    for lr in (0.01, 0.1):
        assert f"{5 + 3 * 34 * (1 - 6 * lr) ** 24:.4f}" in result.out  # the closed form after 12 steps
    lost = next(line for line in result.out.splitlines() if "1e+200" in line or "1e200" in line)
    assert " nan " in lost
    assert (tmp_path / "cmp/test_loss.png").exists()
    assert not (tmp_path / "cmp/test_top1.png").exists()


@pytest.mark.draws
def test_a_function_that_grows_without_bound_ends_as_diverged_and_is_drawn(trainopt, tmp_path):
    result = trainopt(*FUNCTION, "model.start=[3,-2]", "optimizer.lr=0.1", "duration=50steps", "run.name=a")
    assert result.code == 0
    assert summary(tmp_path / "outputs/a")["status"] == "diverged"
    assert (tmp_path / "outputs/a/path.png").exists()


def test_points_of_many_coordinates_are_not_written_and_no_path_is_drawn(trainopt, tmp_path):
    start = json.dumps([1.0] * 17).replace(" ", "")
    assert trainopt(*RUN, "model.function=quadratic", f"model.start={start}", "run.name=a").code == 0
    assert not any("theta" in row for row in rows(tmp_path / "outputs/a"))
    assert not (tmp_path / "outputs/a/path.png").exists()
    assert (tmp_path / "outputs/a/curves.png").exists()


@pytest.mark.draws
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_run_and_drawn(trained, name):
    for optimizer in ("sgd", "newton"):
        command = (*FUNCTION, f"model.function={name}", f"optimizer={optimizer}", "optimizer.lr=0.01")
        folder = trained(*command, "duration=2steps", name=optimizer)
    draw_trajectory(folder)
    assert (folder / "path.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (("model=function",), "the network is a function of its parameters alone; give data=none"),
        (("data=none", "model=mlp"), "data=none: the network needs data; give data=digits or another set"),
        ((*FUNCTION, "data.validation=0.1"), "data.validation=0.1: is for images, and a test function has none"),
        ((*FUNCTION, "augmentation.flip=0.5"), "augmentation.flip=0.5: is for images, and a test function has none"),
        ((*FUNCTION, "objective.label_smoothing=0.1"), "objective.label_smoothing=0.1: is for images"),
        (
            (*FUNCTION, "early_stopping.patience=3"),
            "early_stopping.min_step_norm ends a run where its steps become short",
        ),
        ((*FUNCTION, "regularizer=[l2]"), "regularizer.l2: covers none of the network's trained parameters"),
        ((*FUNCTION, "model.function=beal"), "model.function=beal: must be one of product, quadratic"),
        (
            (*FUNCTION, "model.function=beale", "model.start=[1,2,3]"),
            "model.start=[1, 2, 3]: beale needs two numbers",
        ),
        ((*FUNCTION, "batching.drop_last=true"), "batching.drop_last=true: an epoch of 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(typed, message):
    assert message in refusal(*typed)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=function")
    assert result.code == 2
    assert result.err.endswith("the network is a function of its parameters alone; give data=none\n")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_the_picture_holds_path_and_optimum_but_for_paths_that_run_away_or_are_very_short():
    optimum = np.zeros(2)
    low, high = window(np.array([[5.0, 3.0], [1.0, 4.0]]), optimum)
    for point in ((5, 3), (1, 4), (0, 0)):
        assert (low < point).all()
        assert (point < high).all()
    low, high = window(np.array([[5.0, 3.0], [-6.0, 1.0], [1e9, 1e9]]), optimum)
    assert (low < [-6, 0]).all()
    assert (high > [5, 3]).all()
    assert (high < 50).all()
    low, high = window(np.array([[5.0, 3.0], [4.99, 3.0]]), optimum)
    assert high[0] - low[0] < 0.05
    low, high = window(np.array([[0.0, 0.0]]), optimum)  # a run that begins at the optimum
    assert (low < 0).all()
    assert (high > 0).all()
