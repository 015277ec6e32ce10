"""Schedules and warm-up in whole runs: the rates of the rows, classes of somebody outside, what is refused."""

import math
from pathlib import Path

import pytest

from helpers.cli import prepared, refusal
from helpers.runs import rows, stop_at, train_run
from trainopt.runner.training.build import build
from trainopt.runner.training.schedule import warmup_notes, zero_lr_notes

RUN = ("model=mlp", "logger=none", "log_every=1steps")

OUTSIDE = '''
from torch.optim.lr_scheduler import ExponentialLR


class Halves:
    """No class of torch's; its state is one number."""

    def __init__(self, optimizer, every=4):
        self.optimizer, self.every, self.count = optimizer, every, 0

    def step(self):
        self.count += 1
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5 if self.count % self.every == 0 else 1.0

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class WithItsOwnWarmup(ExponentialLR):
    def __init__(self, optimizer, warmup):
        self.own_warmup = warmup
        super().__init__(optimizer, 0.5)
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module of somebody outside."""
    (tmp_path / "schedules_of_somebody.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)


def lrs(folder):
    return [row["lr"] for row in rows(folder, "train")]


def wave(k, half):
    """The triangular wave, counted along the steps."""
    k %= 2 * half
    return k / half if k < half else 2 - k / half


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "ehnewton"])
def test_rows_hold_the_rates_of_three_cycles_with_any_optimizer(trained, optimizer):
    """After a warm-up over half of the first."""
    options = ("schedule.base_lr=0.001", "schedule.max_lr=0.01", "schedule.step_up=6steps", "schedule.warmup=6steps")
    folder = trained(*RUN, f"optimizer={optimizer}", "schedule=cyclic", *options, "duration=36steps")
    expected = [min(1, 0.1 + 0.9 * k / 6) * (0.001 + 0.009 * wave(k, 6)) for k in range(36)]
    assert lrs(folder) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("schedule", ["constant schedule.warmup=2steps", "range_test", "one_cycle schedule.max_lr=0.2"])
def test_rows_hold_the_rate_of_layers_with_the_optimizers_own(trained, schedule):
    options = (*RUN, "optimizer.lr=0.3", f"schedule={schedule.split()[0]}", *schedule.split()[1:], "duration=4steps")
    folder = trained(*options, name="plain")
    layered = trained(*options, "parameter_groups.layer_decay=0.5", name="layered")
    assert lrs(layered) == lrs(folder)


def test_durations_in_epochs_and_a_period_that_is_the_runs(trained):
    period = "schedule.period=${duration}"
    folder = trained(*RUN, "schedule=cosine_restarts", period, "optimizer.lr=0.2", "duration=3epochs")
    epochs = [k // 12 + k % 12 * 128 / 1437 for k in range(36)]  # the last of 12 batches is smaller
    expected = [0.1 * (1 + math.cos(math.pi * epoch / 3)) for epoch in epochs]
    assert lrs(folder) == pytest.approx(expected, rel=1e-9)


def test_the_start_says_what_the_first_rate_is(trainopt):
    result = trainopt(*RUN, "duration=1steps", "schedule.warmup=2epochs", "schedule.warmup_from=0.5")
    assert "SGD, lr 0.05 at first, schedule constant, warm-up over 2epochs" in result.out


@pytest.mark.parametrize(
    ("typed", "step", "note"),
    [
        ("schedule=linear", 0, None),
        ("schedule=linear schedule.over=6epochs", 0, "from 6epochs to"),
        ("schedule=linear schedule.over=6epochs schedule.min_lr=0.1", 0, None),
        ("schedule=cosine schedule.over=60steps schedule.warmup=5steps", 0, None),  # of how many steps an epoch has
        ("schedule=cosine schedule.over=60steps schedule.warmup=5steps", 20, "from 6epochs to"),
        ("schedule=cosine schedule.over=60steps duration=80steps", 60, "from 60steps to"),
        ("schedule=exponential schedule.every=1steps", 0, None),
        ("optimizer.lr=0 schedule=linear schedule.over=6epochs", 0, None),
    ],
)
def test_a_learning_rate_that_is_0_for_the_rest_of_a_run_is_noted(typed, step, note):
    words = f"model=mlp data.limit=100 duration=10epochs {typed}".split()
    config, _ = prepared(*words)
    run = build(config, Path("unused"))
    run.progress.load_state_dict({"epoch_size": 100, "step": step, "samples_passed": 10 * step})
    before = [dict(group) for group in run.optimizer.param_groups]
    notes = zero_lr_notes(run.schedule, run.progress, config.duration)
    assert [note in line for line in notes] == [True] * (note is not None)
    assert [group["lr"] for group in run.optimizer.param_groups] == [group["lr"] for group in before]


def test_a_schedule_of_torch_gets_a_warm_up(trained):
    target = "schedule._target_=torch.optim.lr_scheduler.ExponentialLR"
    options = ("+schedule.gamma=0.9", "schedule.warmup=5steps", "schedule.warmup_from=0")
    expected = [0.1 * 0.9**k * min(1, k / 5) for k in range(12)]
    assert lrs(trained(*RUN, target, *options, "duration=12steps")) == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("outside")
def test_a_schedule_of_somebody_outside_gets_a_warm_up_and_goes_on(tmp_path, monkeypatch):
    command = (*RUN, "schedule._target_=schedules_of_somebody.Halves", "schedule.warmup=10steps", "duration=15steps")
    stop_at(monkeypatch, 3, 7)
    assert [train_run(tmp_path / "a", *command) for _ in range(3)] == [130, 130, 0]
    expected = [0.1 * 0.5 ** (k // 4) * min(1, 0.1 + 0.9 * k / 10) for k in range(15)]
    assert lrs(tmp_path / "a") == pytest.approx(expected, rel=1e-12)


@pytest.mark.usefixtures("outside")
def test_a_class_that_takes_warmup_itself_gets_it(trained):
    target = "schedule._target_=schedules_of_somebody.WithItsOwnWarmup"
    folder = trained(*RUN, target, "schedule.warmup=10steps", "duration=3steps")
    assert lrs(folder) == pytest.approx([0.1, 0.05, 0.025])


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("schedule=cyclic schedule.base_lr=0.2", "schedule.base_lr=0.2: must be below max_lr=0.1, and not below 0"),
        ("schedule=cyclic schedule.base_lr=1 schedule.max_lr=0.5", "schedule.base_lr=1: must be below max_lr=0.5"),
        (
            "schedule=cyclic schedule.window=hat",
            "schedule.window=hat: must be one of linear, parabolic, sinusoidal",
        ),
        (
            "schedule=cyclic schedule.mode=saw",
            "schedule.mode=saw: must be one of triangular, triangular2, exp_range",
        ),
        ("schedule=cyclic schedule.gamma=0", "schedule.gamma=0: must be in (0, 1]"),
        ("schedule=cyclic schedule.gamma=1.5", "schedule.gamma=1.5: must be in (0, 1]"),
        ("schedule=cyclic schedule.step_up=10", "schedule.step_up=10: must be a duration"),
        ("schedule=cyclic schedule.max_lrs=1", "schedule.max_lrs: unknown key; did you mean schedule.max_lr?"),
        ("schedule=cosine_restarts schedule.period_mult=0.5", "schedule.period_mult=0.5: must be >= 1"),
        ("schedule=cosine_restarts schedule.min_lr=2", "schedule.min_lr=2: must be in [0, 1]"),
        (
            "schedule=range_test schedule.base_lr=20",
            "schedule.base_lr=20, max_lr=10.0: must be numbers, base_lr below",
        ),
        ("schedule=range_test schedule.max_lr=null", "schedule.max_lr=null: must be a number"),
        ("schedule=range_test schedule.base_lr=0", "schedule.base_lr=0: must be > 0 with mode=exponential"),
        ("schedule=range_test schedule.mode=up", "schedule.mode=up: must be one of linear, exponential"),
        (
            "schedule=range_test data.validation=0.1 early_stopping.patience=2",
            "early_stopping.patience=2: the first learning rates of a range test improve nothing; give null",
        ),
        ("schedule.warmup=soon", "schedule.warmup=soon: must be a duration"),
        ("schedule.warmup=5steps schedule.warmup_from=2", "schedule.warmup_from=2: must be a number in [0, 1]"),
        ("optimizer=adaptive_nesterov schedule=cyclic", "AdaptiveNesterov computes its learning rate itself"),
        ("optimizer=adaptive_nesterov schedule=range_test", "AdaptiveNesterov computes its learning rate itself"),
        (
            "optimizer=adaptive_nesterov schedule.warmup=5steps",
            "schedule.warmup=5steps: AdaptiveNesterov computes its learning rate itself; give null",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(typed, message):
    assert message in refusal("model=mlp", *typed.split())


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=mlp", "schedule.warmup=soon")
    assert result.code == 2
    assert result.err.startswith("trainopt: schedule.warmup=soon: must be a duration")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_a_warm_up_longer_than_the_run_is_noted():
    (note,) = warmup_notes("500steps", "3epochs", batches=12)
    assert note.startswith("schedule.warmup=500steps is longer than the run, 36 steps:")
    assert warmup_notes("36steps", "3epochs", batches=12) == warmup_notes(None, "3epochs", batches=12) == []
    assert warmup_notes("4epochs", "36steps", batches=12) != [] == warmup_notes("1epochs", "5s", batches=12)
