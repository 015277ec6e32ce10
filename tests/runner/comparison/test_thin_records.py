"""What a comparison holds of runs with many records: all numbers are those of all records, and memory is bounded."""

import gc
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from helpers.fixtures import made_up_run
from trainopt.runner import load_runs
from trainopt.runner.comparison.figures.curves import method_curves
from trainopt.runner.comparison.figures.target import evaluation_distance
from trainopt.runner.comparison.methods import compare_methods, exclusion_reason
from trainopt.runner.comparison.metrics import AXES, Target
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.comparison.records import thin_records
from trainopt.runner.comparison.records.target_records import TARGET_VALUE


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    monkeypatch.setattr(thin_records, "POINTS", 50)


def made_up_runs(folder, runs, evaluations):
    """Writes runs of two methods whose accuracy is a random walk upwards."""
    for number in range(runs):
        noise = np.random.default_rng(number).normal(0, 3, evaluations)
        curve = np.clip(10.0 + np.linspace(0, 75, evaluations) + noise, 0, 100).round().tolist()
        made_up_run(
            folder / f"run{number}",
            number // 2,
            curve=curve,
            config={"optimizer.lr": 0.1 / (1 + number % 2)},
            summary={"best_top1": {"value": max(curve), "step": 1, "epoch": 1.0, "train_seconds": 1.0}},
            seconds=1.0 + 0.1 * number,
            hvps=number % 2,
            reports={"step_size": 0.5},
        )


@pytest.mark.parametrize("target", [None, Target(43.21), Target(0.5, "loss"), Target(0.035, "train_loss")])
def test_numbers_are_those_of_all_records(tmp_path, target):
    made_up_runs(tmp_path, 4, 151)
    thinned = read_comparison([tmp_path], target=target)
    full = compare_methods(load_runs([tmp_path], exclusion_reason), target=target)
    assert len(thinned.runs.metrics) < len(full.runs.metrics)
    assert thinned.target == full.target
    for one, other in zip(thinned.methods, full.methods, strict=True):
        assert one.to_target == other.to_target
        assert one.reached == other.reached > 0
        assert repr(one.estimates) == repr(other.estimates)  # nan is not nan
    for axis, column in AXES.items():
        assert evaluation_distance(thinned, axis) == evaluation_distance(full, axis) > 0
        for kind, name in (("test", "top1"), ("train", "total"), ("train", "lr")):
            curves = [method_curves(comparison, kind, name, column) for comparison in (thinned, full)]
            for one, other in zip(*(list(by_method.values()) for by_method in curves), strict=True):
                np.testing.assert_array_equal(one.mean, other.mean)
                np.testing.assert_array_equal(one.x, other.x)


def test_the_best_value_stays_where_the_target_is_not_reached():
    steps = np.arange(1, 3001)
    counts = dict.fromkeys(("step", "epoch", "samples", "gradients", "train_seconds"), steps) | {"hvps": 0}
    records = pd.DataFrame({"kind": "train", **counts, "total": np.where(steps == 1502, 0.5, 1.0)})
    thinned = thin_records.thin_records(records, "test", Target(1e-3, "train_loss"))
    assert len(thinned) < len(records)
    assert thinned[TARGET_VALUE].min() == 0.5


@pytest.mark.slow
def test_memory_does_not_grow_with_the_records(tmp_path):
    memory = {}
    for evaluations in (200, 200, 2000):  # the first one imports
        folder = tmp_path / str(evaluations)
        if not folder.exists():
            made_up_runs(folder, 6, evaluations)
        gc.collect()
        tracemalloc.start()
        comparison = read_comparison([folder])
        gc.collect()
        memory[evaluations] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(comparison.runs.summaries) == 6
    assert memory[2000] < 1.5 * memory[200], "ten times the records"
