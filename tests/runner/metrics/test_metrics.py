"""Metrics: against scikit-learn and torchmetrics; what a run, its summary, best.pt and a comparison make of them."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from helpers.cli import built, refusal
from helpers.fixtures import made_up_run
from helpers.runs import rows, summary
from trainopt.runner import UserError, load_runs
from trainopt.runner.comparison.figures.curves import recorded_metrics
from trainopt.runner.comparison.methods import compare_methods
from trainopt.runner.metrics import RMSE, CalibrationError, ConfusionMatrix, PerClassAccuracy, TopAccuracy
from trainopt.runner.metrics.metric import values_of
from trainopt.runner.metrics.selection import Selection, select
from trainopt.runner.objectives import BinaryCrossEntropy, MeanSquaredError
from trainopt.runner.records.metric_arrays import read_arrays

SMALL = ("model=mlp", "model.hidden=[8]", "data.limit=60", "batching.size=20", "logger=none", "duration=6steps")
MISTAKES = "+metric.mistakes._target_=helpers.fixtures.Mistakes"

torch.manual_seed(1)
OUTPUTS, CLASSES = 3 * torch.randn(500, 7), torch.randint(7, (500,))
PREDICTED, CONFIDENCE = OUTPUTS.argmax(1), OUTPUTS.softmax(1)


def computed(metric, outputs=OUTPUTS, targets=CLASSES):
    """The value over batches of 64, after another set."""
    for _ in range(2):
        metric.reset()
        for part in zip(outputs.split(64), targets.split(64), strict=True):
            metric.update(*part)
    return metric.compute()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracies_are_those_of_torchmetrics(k):
    expected = 100 * computed(MulticlassAccuracy(7, top_k=k, average="micro"))
    assert computed(TopAccuracy(k)) == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_not_a_number_is_counted_and_ends_nothing():
    broken = torch.full((3, 7), torch.nan)
    metrics = (TopAccuracy(), TopAccuracy(5), ConfusionMatrix(7), PerClassAccuracy(7), CalibrationError(), RMSE(7))
    values = [computed(metric, broken, CLASSES[:3]) for metric in metrics]
    assert math.isnan(values[-1])
    assert values[2].sum() == 3


def test_confusions_are_those_of_scikit_learn():
    assert computed(ConfusionMatrix(7)).tolist() == sklearn.confusion_matrix(CLASSES, PREDICTED).tolist()
    expected = 100 * sklearn.recall_score(CLASSES, PREDICTED, average=None)
    assert computed(PerClassAccuracy(7)).tolist() == pytest.approx(expected.tolist())
    assert math.isnan(computed(PerClassAccuracy(8), torch.nn.functional.pad(OUTPUTS, (0, 1), value=-9)).tolist()[7])


@pytest.mark.parametrize("bins", [15, 4])
def test_the_calibration_error_is_that_of_torchmetrics(bins):
    expected = 100 * computed(MulticlassCalibrationError(7, n_bins=bins, norm="l1"))
    assert computed(CalibrationError(bins=bins)) == pytest.approx(expected.item(), rel=1e-5)


def test_confidence_is_the_probability_of_the_objective():
    confidence = OUTPUTS.double().sigmoid().max(1).values
    one_bin = 100 * abs(((PREDICTED == CLASSES).double() - confidence).mean().item())
    assert computed(CalibrationError(BinaryCrossEntropy(7), bins=1)) == pytest.approx(one_bin)
    with pytest.raises(ValueError, match="outputs that are trained by objective=mse are none"):
        CalibrationError(MeanSquaredError(7))


def test_the_root_mean_square_error_is_that_of_scikit_learn():
    targets = torch.randn(500, 7, dtype=torch.float64)
    assert computed(RMSE(), OUTPUTS, targets) == pytest.approx(sklearn.mean_squared_error(targets, OUTPUTS) ** 0.5)
    one = computed(RMSE(), OUTPUTS[:, :1], targets[:, 0])
    assert one == pytest.approx(sklearn.mean_squared_error(targets[:, 0], OUTPUTS[:, 0]) ** 0.5)


def test_what_compute_returns_becomes_values_of_a_row():
    assert values_of("a", torch.tensor(2)) == {"a": 2}
    assert values_of("a", [1, 2])["a"].tolist() == [1, 2]
    for result in (None, "text", [[1], [1, 2]], object()):
        with pytest.raises(ValueError, match="must return a number, an array or a dict of these"):
            values_of("a", result)


def test_the_selection_is_top1_or_the_first_metric_with_a_direction():
    metrics = {"confusion_matrix": ConfusionMatrix(7), "rmse": RMSE(7), "top1": TopAccuracy()}
    assert select(metrics, None) == ("top1", True)
    del metrics["top1"]
    assert select(metrics, None) == ("rmse", False)
    assert select({}, None) == select(metrics, "loss") == Selection("loss", False)
    assert select(metrics, "rmse_of_x") == ("rmse_of_x", False)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["selection_metric=top7"], "selection_metric=top7: the run has no such metric; did you mean top5? known are"),
        (["metric=[confusion_matrix]", "selection_metric=confusion_matrix"], "does not say whether higher is better"),
        (
            [MISTAKES, "selection_metric=mistakes_by_class"],
            "selection_metric=mistakes_by_class: is no number; metric.mis",
        ),
        (["metric=[calibration_error]", "objective=mse"], "metric.calibration_error: needs probabilities, and outputs"),
        (["+metric.loss._target_=helpers.fixtures.Mistakes"], "metric.loss: is the name of another value or figure"),
        (["+metric.a._target_=torchmetrics.R2Score"], "metric.a: does not take the outputs and targets ("),
        (["+metric.a._target_=builtins.object"], "metric.a: object is no metric; it has no method reset"),
        (["model=function", "data=none", "metric=[top1]"], "metric: a test function has no outputs"),
        (
            ["schedule=plateau", "schedule.metric=rmse", "data.validation=0.2"],
            "schedule.metric=rmse: must be one of loss",
        ),
    ],
)
def test_what_cannot_be_is_refused(typed, line):
    assert line in refusal("model=mlp", "data.limit=60", *typed)


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    line = refusal("model=mlp", "data.limit=60", "+metric.a._target_=torchmetrics.R2Score")
    assert line.endswith("torchmetrics is not installed; pip install 'trainopt[metrics]'")


def test_a_metric_of_the_user_comes_with_the_usual_ones_and_takes_the_number_of_classes():
    run = built(
        "model=mlp", "data.limit=60", MISTAKES, "+metric.f1._target_=torchmetrics.classification.MulticlassF1Score"
    )
    assert list(run.metrics) == ["top1", "top5", "mistakes", "f1"]
    row = run.evaluate("test")
    assert row["mistakes_total"] == round(60 * (1 - row["top1"] / 100))
    assert row["mistakes_by_class"].sum() == row["mistakes_total"]
    assert 0 <= row["f1"] <= 1


def test_best_and_files_follow_the_metrics_of_a_run(trained, trainopt):
    every = "metric=[top1,confusion_matrix,per_class_accuracy,calibration_error]"
    typed = (*SMALL, every, MISTAKES, "selection_metric=mistakes_total", "evaluate_every=2steps", "data.validation=0.3")
    folder = trained(*typed)
    selected, tests = rows(folder, "validation"), rows(folder, "test")
    lowest = min(selected, key=lambda row: row["mistakes_total"])
    done = summary(folder)
    best = {"metric": "mistakes_total", "value": lowest["mistakes_total"], "step": lowest["step"]}
    assert {key: done["best"][key] for key in best} == best
    assert torch.load(folder / "checkpoints/best.pt", weights_only=True)["progress"]["step"] == lowest["step"]
    assert done["best_top1"]["value"] == max(row["top1"] for row in selected)
    numbers = ("loss", "top1", "calibration_error", "mistakes_total")
    assert done["final"] == {name: tests[-1][name] for name in (*numbers, "step", "epoch")}
    assert "top5" not in tests[-1]
    assert done["metrics"] == {
        **{"top1": True, "confusion_matrix": None, "per_class_accuracy": None, "calibration_error": False},
        "mistakes": False,
    }
    arrays = read_arrays(folder, "test")
    assert list(arrays) == ["confusion_matrix", "per_class_accuracy", "mistakes_by_class"]
    matrix = arrays["confusion_matrix"]
    assert matrix.sum() == 60
    assert 100 * matrix.trace() / 60 == pytest.approx(tests[-1]["top1"])
    assert (matrix.sum(1) - matrix.diagonal()).tolist() == arrays["mistakes_by_class"].tolist()
    printed = json.loads(trainopt("evaluate", str(folder), "--json").out)
    assert {name: printed["sets"]["test"][name] for name in numbers} == {name: done["final"][name] for name in numbers}
    assert printed["sets"]["test"]["confusion_matrix"] == matrix.tolist()
    table = trainopt("evaluate", str(folder)).out
    assert "mistakes total" in table
    assert "confusion_matrix (test)" in table


@pytest.fixture
def errors(tmp_path):
    """Runs of two optimizers with a metric `error`, of which less is better; Adam's is lower."""
    for optimizer, values in (("adam", (0.1, 0.11, 0.12)), ("sgd", (0.4, 0.42, 0.41))):
        for seed, value in enumerate(values):
            final = {"loss": 0.3, "top1": 90.0, "error": value, "shifted": {"error": 2 * value}}
            more = {"final": final, "metrics": {"top1": True, "error": False}, "objective": "cross_entropy"}
            more["best"] = {"metric": "error", "value": value / 2}
            folder = made_up_run(tmp_path / f"{optimizer}{seed}", seed, choices={"optimizer": optimizer}, summary=more)
            arrays = {
                "step": 40,
                "epoch": 4.0,
                "test": {"confusion_matrix": [[9, seed], [0, 10]], "each": [0.5, value]},
            }
            (folder / "metric_arrays.json").write_text(json.dumps(arrays))
    return tmp_path


def test_a_comparison_takes_every_metric_with_its_direction(trainopt, errors):
    out = errors / "out"
    result = trainopt("compare", str(errors), "--metric", "error", "--out", str(out))
    assert "On final error: SGD is worse than Adam by " in result.out
    header, first, second = (line.split(",") for line in (out / "table.csv").read_text().splitlines())
    for row, expected in ((first, 0.11), (second, 0.41)):
        assert float(row[header.index("final_error_mean")]) == pytest.approx(expected)
        assert float(row[header.index("best_error_mean")]) == pytest.approx(expected / 2)
        assert float(row[header.index("final_shifted_error_mean")]) == pytest.approx(2 * expected)
    assert {"confusion_matrix.svg", "each.svg"} <= {path.name for path in out.iterdir()}
    with pytest.raises(UserError, match=r"--metric eror: no such metric; there are final_top1.*, best_error$"):
        compare_methods(load_runs(errors), metric="eror")


def test_a_diverged_run_has_no_value_of_a_metric_whose_chance_level_is_unknown(errors):
    more = {"final": {"loss": 9.0, "top1": 50.0, "error": 9.0}, "metrics": {"error": False}, "objective": "mse"}
    more["best"] = {"metric": "error", "value": 4.0}
    made_up_run(errors / "adam3", 3, status="diverged", choices={"optimizer": "adam"}, summary=more)
    comparison = compare_methods(load_runs(errors), metric="final_loss")
    (adam,) = (method for method in comparison.methods if method.name == "optimizer=adam")
    assert adam.diverged == 1
    for name in ("final_loss", "final_error", "best_error"):
        assert math.isnan(adam.estimates[name].mean)
    assert adam.estimates["final_top1"].mean == (3 * 90 + 10) / 4
    assert recorded_metrics(comparison) == [("test", "error", "error"), ("shifted", "error", "error")]  # those drawn
    assert comparison.obstacles == []
    other = {"objective._target_": "trainopt.runner.objectives.MeanSquaredError"}
    made_up_run(errors / "other", config=other, choices={"optimizer": "sgd"})
    comparison = compare_methods(load_runs(errors), metric="loss")
    assert "final_loss is of different losses (objective._target_); give another --metric" in comparison.obstacles
    assert compare_methods(load_runs(errors), metric="error").obstacles == []


@pytest.mark.slow
@pytest.mark.draws
def test_a_heat_map_is_drawn(trained):
    from trainopt.runner.reporting.metric_arrays import draw_metric_arrays

    folder = trained(*SMALL, "metric=[confusion_matrix,per_class_accuracy]")
    draw_metric_arrays(folder, "a")
    for name in ("confusion_matrix", "per_class_accuracy"):
        assert (folder / f"{name}.png").stat().st_size > 10_000
    np.testing.assert_array_equal(read_arrays(folder, "nothing"), {})
