"""Runs with dynamic sampling: sizes and rates of every step, refusals."""

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from helpers.cli import refusal
from helpers.runs import rows, same_weights, summary, timeless
from trainopt.data import Batching
from trainopt.optimizers import Constant, Schedule
from trainopt.runner.config.contracts import complete
from trainopt.runner.config.durations import Duration
from trainopt.runner.state.run import Run
from trainopt.runner.training.schedule import levels_of

RUN = ("model=mlp", "model.hidden=[8]", "data.limit=64", "logger=none", "device=cpu", "log_every=1steps")
DYNAMIC = ("batching=dynamic", "batching.stages=[8,16]", "duration=8epochs")
# the study's rate: a tenth after half of the epochs and after three quarters
STEPWISE = ("schedule=multistep", "schedule.milestones=[4epochs,6epochs]", "optimizer.lr=0.1")


def by_epoch(folder, key, epochs=8):
    """What training rows hold, each epoch's as a set; a step that completes an epoch is of that."""
    found = [set() for _ in range(epochs)]
    for row in rows(folder, "train"):
        found[-int(-row["epoch"] // 1) - 1].add(row[key])
    return found


def test_stages_over_the_run_and_within_each_level_of_the_rate(trained):
    over_run = trained(*RUN, *DYNAMIC, *STEPWISE, name="O")
    assert by_epoch(over_run, "batch_size") == [{8}] * 4 + [{16}] * 4
    in_levels = trained(*RUN, *DYNAMIC, *STEPWISE, "batching.scope=learning_rate", name="MS")
    assert by_epoch(in_levels, "batch_size") == [{8}] * 2 + [{16}] * 2 + [{8}] + [{16}] + [{8}] + [{16}]
    rates = [0.1] * 4 + [pytest.approx(0.01)] * 2 + [pytest.approx(0.001)] * 2
    for folder in (over_run, in_levels):  # "the same amount of units of mini-batch sizes", section 4.3
        assert [lr for (lr,) in by_epoch(folder, "lr")] == rates
        assert (summary(folder)["steps"], summary(folder)["samples"]) == (4 * 8 + 4 * 4, 8 * 64)


def test_the_start_says_sizes_and_when_they_change(trainopt):
    said = trainopt(*RUN, *DYNAMIC).out
    assert "8epochs, 8 batches an epoch at first" in said
    assert "8 images, 16 from 50 % of the run" in said


def test_the_rate_moves_with_the_size_on_top_of_the_schedule(trained):
    options = ("schedule=exponential", "schedule.gamma=0.5", "schedule.every=2epochs", "optimizer.lr=0.2")
    repeats = ("batching.persistency=2", "batching.repeat_lr_factor=0.5")
    command = (*RUN, *DYNAMIC, *options, *repeats, "batching.lr_rule=sqrt")
    found = [row["lr"] for row in rows(trained(*command), "train")]
    rates = [0.2 * 0.5 ** (epoch // 2) * (1 if epoch < 4 else 2**0.5) for epoch in range(8)]
    batches = [rate for epoch, rate in enumerate(rates) for _ in range(8 if epoch < 4 else 4)]
    assert found == pytest.approx([rate / updates for rate in batches for updates in (1, 2)])


def test_a_rate_by_rule_is_the_same_run_as_that_rate_from_the_schedule(trained):
    command = (*RUN, "batching=dynamic", "batching.stages=[16,8]", "duration=8epochs")
    ruled = trained(*command, "batching.lr_rule=linear", "optimizer.lr=0.25", name="ruled")
    halved = ("schedule=multistep", "schedule.milestones=[4epochs]", "schedule.gamma=0.5", "optimizer.lr=0.25")
    planned = trained(*command, *halved, name="planned")
    assert timeless(rows(ruled)) == timeless(rows(planned))
    assert same_weights(ruled, planned)


def test_evaluations_are_as_large_as_the_largest_batch():
    def evaluated_with(**sizes):
        batching = complete(SimpleNamespace(**sizes), Batching, "batching")
        return Run.evaluation_batch_size.fget(SimpleNamespace(batching=batching))

    assert [evaluated_with(largest=600, smallest=8), evaluated_with(size=500), evaluated_with()] == [600, 500, 256]


@pytest.mark.parametrize(
    ("said", "duration", "expected"),
    [
        (["5epochs", "10epochs"], "20epochs", [0, Fraction(1, 4), Fraction(1, 2)]),
        (["30epochs", "5epochs", "5epochs"], "20epochs", [0, Fraction(1, 4)]),
        ("3steps", "10steps", [0, Fraction(3, 10), Fraction(6, 10), Fraction(9, 10)]),
        ("5steps", "10steps", [0, Fraction(1, 2)]),
        ([], "10steps", [0]),
        (["50steps", "12epochs"], "20epochs", None),
        ("5steps", "20epochs", None),
        (None, "20epochs", None),
    ],
)
def test_levels_are_shares_of_the_run(said, duration, expected):
    schedule = SimpleNamespace(levels=lambda: said)
    assert levels_of(schedule, Duration.parse(duration)) == expected


def test_a_constant_rate_is_one_level_and_a_schedule_that_says_nothing_has_none():
    assert levels_of(Constant(None), Duration.parse("3epochs")) == [0]
    torchs = StepLR(SGD([torch.zeros(1, requires_grad=True)]), 1)
    assert levels_of(complete(torchs, Schedule, "schedule"), Duration.parse("3epochs")) is None


LEVELS = "batching.scope=learning_rate: needs a schedule with levels in the unit of duration: constant, multistep"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("schedule=cosine_restarts batching.scope=learning_rate", LEVELS),
        ("schedule=cyclic batching.scope=learning_rate", LEVELS),
        ("schedule=exponential schedule.staircase=false batching.scope=learning_rate", LEVELS),
        ("schedule=exponential duration=50steps batching.scope=learning_rate", LEVELS),
        ("schedule=cosine_restarts schedule.warmup=1epochs batching.scope=learning_rate", LEVELS),
        ("batching.first=10 batching.last=50", "batching.first=10, last=50: one must be a power of two times"),
        ("batching.stages=[]", "batching.stages=[]: must have at least one stage"),
        ("batching.stages=[8,0]", "batching.stages=[8, 0]: must be >= 1"),
        ("batching.scope=epoch", "batching.scope=epoch: must be one of run, learning_rate"),
        ("batching.lr_rule=cubic", "batching.lr_rule=cubic: must be one of none, linear, sqrt"),
        ("batching.size=8", "batching.size: batching=dynamic has no such key; it is one of "),
        (
            "optimizer=adaptive_nesterov batching.lr_rule=linear",
            "batching.lr_rule=linear: AdaptiveNesterov computes its learning rate itself; leave it unchanged",
        ),
        (
            "schedule=range_test schedule.over=2epochs batching.lr_rule=sqrt",
            "batching.lr_rule=sqrt: a range test changes the learning rate itself; leave it unchanged",
        ),
        (
            "data.limit=50 batching.drop_last=true",
            "batching.drop_last=true: an epoch of 50 images then holds no batch at all",
        ),
        (
            "model=resnet8 data.size=4 batching.stages=[8,1]",
            "batching: has batches of one image, which batch norm cannot train on; give larger sizes",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(command, message):
    assert refusal("model=mlp", "batching=dynamic", *command.split()).startswith(message)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=resnet8", "data.size=4", "batching=dynamic", "batching.stages=[8,1]")
    assert result.code == 2
    message = "batching: has batches of one image, which batch norm cannot train on; give larger sizes"
    assert result.err == f"trainopt: {message}\n"
    assert not list(tmp_path.iterdir())
