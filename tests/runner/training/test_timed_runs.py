"""Runs that end by the clock: `duration=10min`."""

from math import cos, pi
from types import SimpleNamespace

import pytest

from helpers.cli import prepared, refusal, sweep_refusal
from helpers.ranks import run_ranks
from trainopt.runner.commands.resume import command as resume
from trainopt.runner.records.metrics import read_metrics
from trainopt.runner.records.run_folder import read_summary
from trainopt.runner.state.clocks import Clocks
from trainopt.runner.state.run import Run
from trainopt.runner.training.closure import TrainingClosure
from trainopt.runner.training.execute import start

SMALL = ("model=mlp", "model.hidden=[4]", "data.limit=200", "batching.size=10", "optimizer=sgd", "optimizer.lr=0.5")
RUN = (*SMALL, "duration=9s", "evaluate_every=2steps", "checkpoint_every=1steps", "log_every=1steps", "schedule=cosine")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, but for 2 seconds a step and 100 seconds an evaluation."""
    clock = SimpleNamespace(now=0.0, steps=0, fails_at=None)
    loss, evaluate = TrainingClosure.__call__, Run.evaluate

    def slow_loss(self):
        clock.now += 2.0
        clock.steps += 1
        if clock.steps == clock.fails_at:
            raise RuntimeError("the computer is on fire")
        return loss(self)

    def slow_evaluation(self, *args):
        clock.now += 100.0
        return evaluate(self, *args)

    monkeypatch.setattr(TrainingClosure, "__call__", slow_loss)
    monkeypatch.setattr(Run, "evaluate", slow_evaluation)
    clocks = "trainopt.runner.training.build.Clocks"
    monkeypatch.setattr(clocks, lambda device: Clocks(device, now=lambda: clock.now))
    return clock


def run(folder, *typed):
    return start(*prepared(*typed), folder, ["trainopt", *typed])


def steps_and_seconds(folder, kind):
    return [(row["step"], row["train_seconds"]) for row in read_metrics(folder, kind)]


@pytest.mark.slow
def test_the_first_step_at_the_time_is_the_last_and_schedules_follow_the_clock(clock, tmp_path):
    assert run(tmp_path, *RUN) == 0
    assert steps_and_seconds(tmp_path, "train") == [(k, 2.0 * k) for k in range(1, 6)]
    assert steps_and_seconds(tmp_path, "test") == [(0, 0.0), (2, 4.0), (4, 8.0), (5, 10.0)]
    expected = [0.25 * (1 + cos(pi * 2 * k / 9)) for k in range(5)]
    assert [row["lr"] for row in read_metrics(tmp_path, "train")] == pytest.approx(expected)
    summary = read_summary(tmp_path)
    assert (summary["status"], summary["steps"], summary["is_repeatable"]) == ("finished", 5, False)
    assert summary["seconds"]["evaluation"] == 400.0
    assert "the first step at or after it" in (tmp_path / "log.txt").read_text()


def test_a_run_that_goes_on_has_the_time_that_is_left(clock, tmp_path):
    clock.fails_at = 4
    assert run(tmp_path, *RUN) == 1
    assert run(tmp_path, *RUN) == 0
    assert steps_and_seconds(tmp_path, "train") == [(k, 2.0 * k) for k in range(1, 6)]  # a step that is lost costs none
    longer = [*RUN, "schedule=constant"]
    assert run(tmp_path / "constant", *longer) == 0
    assert resume([str(tmp_path / "constant"), "duration=0.25min"], debug=False) == 0
    assert steps_and_seconds(tmp_path / "constant", "train")[4:] == [(k, 2.0 * k) for k in range(5, 9)]


def test_other_runs_read_no_clock(clock, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "read_clock", None)
    assert run(tmp_path, *RUN, "duration=3steps") == 0
    assert "is_repeatable" not in read_summary(tmp_path)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["evaluate_every=10min"], "evaluate_every=10min: must be a duration (a positive number with a unit"),
        (["duration=10m"], "duration=10m: must be a duration (a positive number with a unit"),
        (["schedule=cosine", "schedule.over=1h"], "schedule.over=1h: is a time, and duration=10epochs is none"),
        (
            ["duration=1min", "batching=dynamic", "batching.stages=[16,32]"],
            "duration=1min: batching follows the length of the run in epochs or steps",
        ),
        (["duration=1min", "batching.persistency=[2,1]"], "duration=1min: batching follows the length of the run"),
    ],
)
def test_what_cannot_follow_a_clock_is_refused(typed, line):
    assert refusal("model=mlp", *typed).startswith(line)


@pytest.mark.slow  # each composes runs
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ["hydra/sweeper=optuna", "hydra.sweeper.pruner=median"],
            "hydra.sweeper.pruner=median: compares trials after equal numbers of steps, and duration=1min is a time",
        ),
        (["hydra/sweeper=lr_heuristic"], "duration=1min: the rule compares losses after equal numbers of steps"),
        (
            ["hydra/sweeper=tournament", "optimizer=sgd,adam"],
            "hydra.sweeper.steps=300: give trials and final runs (duration=1min) the same unit",
        ),
    ],
)
def test_searches_that_compare_by_steps_are_refused(typed, line):
    assert sweep_refusal("model=mlp", "duration=1min", *typed).startswith(line)


@pytest.mark.slow
def test_several_processes_end_with_the_same_step(tmp_path):
    assert run_ranks(2, " ".join([*SMALL, "duration=0.5s", "logger=none"]), tmp_path) == [0, 0]
    summary = read_summary(tmp_path)
    assert summary["status"] == "finished"
    assert summary["train_seconds"] >= 0.5
