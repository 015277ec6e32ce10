"""The metric of a search: its direction is that of the class that computes it."""

import json
import math
import sys
import types

import pytest
from omegaconf import OmegaConf

from trainopt.runner.system.errors import UserError
from trainopt.runner.trials.metric import MetricName, direction_of, metric_value


@pytest.fixture
def config(monkeypatch):
    module = types.ModuleType("their_metrics")
    module.Distance = type("Distance", (), {"higher_is_better": False})
    module.Silent = type("Silent", (), {})
    monkeypatch.setitem(sys.modules, "their_metrics", module)
    targets = {
        "mae": "their_metrics.Distance",
        "f1": "torchmetrics.classification.MulticlassF1Score",
        "silent": "their_metrics.Silent",
        "calibration_error": "trainopt.runner.metrics.CalibrationError",
    }
    return OmegaConf.create({"metric": {name: {"_target_": target} for name, target in targets.items()}})


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("validation_loss", "minimize"),
        ("train_loss", "minimize"),
        ("validation_top1", "maximize"),
        ("test_rmse", "minimize"),
        ("validation_mae", "minimize"),  # its name does not tell
        ("validation_mae_large", "minimize"),  # of a metric that returns several values
        ("validation_f1", "maximize"),
        ("validation_calibration_error", "minimize"),
    ],
)
def test_the_direction_is_that_of_the_class(config, name, direction):
    assert direction_of(MetricName.parse(name), config) == direction


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("validation_silent", "silent does not say whether higher is better; give hydra.sweeper.direction=minimize or"),
        ("validation_tpo1", "runs have no tpo1; did you mean top1? there are loss, top1, top5, rmse, mae, f1, silent"),
    ],
)
def test_a_metric_without_a_direction_is_refused(config, name, text):
    with pytest.raises(UserError) as error:
        direction_of(MetricName.parse(name), config)
    assert str(error.value).startswith(f"hydra.sweeper.metric={name}: {text}")


def test_a_value_that_is_not_finite_is_not_a_number(tmp_path):
    rows = [{"kind": "test", "step": step, "loss": loss} for step, loss in ((0, 2.0), (1, None), (2, 0.5))]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    values = [metric_value(tmp_path, MetricName("test", "loss"), evaluation) for evaluation in (0, 1, None)]
    assert values[::2] == [2.0, 0.5]
    assert math.isnan(values[1])
