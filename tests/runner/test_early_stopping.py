"""Early stopping looks at held-out images, and is part of what a run goes on from."""

import pytest

from runs import rows, same_weights, stop_at, summary, timeless
from trainopt.runner.early_stopping import EarlyStopping
from trainopt.runner.errors import UserError

RUN = (
    "model=mlp",
    "data.validation=0.2",
    "duration=200epochs",
    "optimizer.lr=0.5",
    "logger=none",
    "early_stopping.patience=3",
    "early_stopping.minimum_change=0.5",
)


def waited(values, **options) -> list[int]:
    """How many evaluations it has waited after each of a list of values of its metric."""
    stopping = EarlyStopping(**options)
    found = []
    for value in values:
        stopping.observe({"validation": {stopping.metric: value}, "test": {stopping.metric: 0.0}})
        found.append(stopping.waited)
    return found


def test_it_counts_evaluations_without_an_improvement():
    assert waited([50, 60, 60, 59, 61], patience=2) == [0, 0, 1, 2, 0]
    assert waited([1.0, 0.5, 0.5, 0.6, 0.4], patience=2, metric="loss") == [0, 0, 1, 2, 0]


def test_an_improvement_must_exceed_the_minimum_on_the_best_that_counted():
    assert waited([50, 50.4, 50.8, 51.5], patience=5, minimum_change=0.5) == [0, 1, 0, 0]
    assert waited([50, 50.5, 50.6], patience=5, minimum_change=0.5) == [0, 1, 0]


def test_what_is_not_finite_is_no_improvement():
    assert waited([float("nan"), 1.0, float("-inf"), 0.5], patience=9, metric="loss") == [1, 0, 1, 0]


def test_without_patience_it_never_ends():
    stopping = EarlyStopping()
    for _ in range(100):
        stopping.observe({"validation": {"top1": 1.0}})
    assert not stopping.ends


def test_it_needs_held_out_images():
    with pytest.raises(UserError, match=r"early_stopping.patience=3: needs held-out images"):
        EarlyStopping(patience=3).check({"test": None})


def test_a_run_stops_where_the_figures_say(trainopt, tmp_path):
    result = trainopt(*RUN, "run.name=a")
    assert result.code == 0
    found = summary(tmp_path / "outputs/a")
    top1 = [row["top1"] for row in rows(tmp_path / "outputs/a", "validation")]
    counts = waited(top1, patience=3, minimum_change=0.5)
    assert counts[-1] == 3
    assert 3 not in counts[:-1]
    assert found["status"] == "finished"
    assert found["stopped_early"] is True
    assert found["epochs"] == len(top1) - 1 < 200
    assert "stopped early" in result.out
    assert "already finished" in trainopt(*RUN, "run.name=a").out


def test_a_run_stopped_by_a_signal_stops_early_at_the_same_step(trainopt, tmp_path, monkeypatch):
    trainopt(*RUN, "run.name=whole")
    with monkeypatch.context() as patch:
        stop_at(patch, 20, 41)
        for _ in range(2):
            assert trainopt(*RUN, "run.name=parts").code == 130
    assert trainopt(*RUN, "run.name=parts").code == 0
    whole, parts = tmp_path / "outputs/whole", tmp_path / "outputs/parts"
    assert timeless(rows(parts)) == timeless(rows(whole))
    assert timeless(summary(parts)) == timeless(summary(whole))
    assert same_weights(parts, whole)


def test_without_a_validation_split_it_is_refused(trainopt):
    result = trainopt("model=mlp", "early_stopping.patience=3")
    assert result.code == 2
    assert "needs held-out images to look at, as with data.validation=0.1" in result.err
