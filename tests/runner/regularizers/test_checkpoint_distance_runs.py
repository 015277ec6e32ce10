"""Snapshots and pushes in a run: when they happen, what rows say of them, and that nothing is lost by a kill."""

import math
import os
import signal

import pytest
import torch

from helpers.cli import forked, refusal
from helpers.runs import equal, rows, same_weights, summary, timeless
from trainopt.runner import load_run
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.state.progress import Progress

QUICK = ("model=mlp", "model.hidden=[8]", "data.limit=200", "batching.size=20", "logger=none", "log_every=1steps")
TERM = "regularizer=[checkpoint_distance]"


def options(**values):
    return [f"regularizer.checkpoint_distance.{key}={value}" for key, value in values.items()]


@pytest.fixture
def pushed(trained):
    """Trains a run with the term, of ten steps an epoch, and returns its folder."""

    def train(*typed, name="a", duration="20steps", **values):
        return trained(*QUICK, TERM, f"duration={duration}", *options(**values), *typed, name=name)

    return train


def events(folder):
    return [(row["step"], row["event"], row.get("because")) for row in rows(folder, "event")]


def vector(folder, name):
    """All weights of a checkpoint, and the step that it is of."""
    state = torch.load(folder / "checkpoints" / name, weights_only=True)
    weights = torch.cat([w.double().reshape(-1) for w in state["model"].values()])
    return state["progress"]["step"], weights


WHEN = {
    "half of the run, by default": ({}, [], [(10, "half of the run")]),
    "every so often, and no more": ({"every": "0.6epochs", "times": 2}, [], [(6, "every"), (12, "every")]),
    "given times; two reasons are one snapshot": (
        {"every": "10steps", "at": "[3steps,1epochs]"},
        [],
        [(3, "at"), (10, "at, every"), (20, "every")],
    ),
    "restarts": (
        {"at_restarts": "true"},
        ["schedule=cosine_restarts", "schedule.period=4steps", "schedule.period_mult=2"],
        [(4, "restart"), (12, "restart")],
    ),
    "ends of cycles, with a warm-up": (
        {"at_restarts": "true"},
        ["schedule=cyclic", "schedule.step_up=4steps", "schedule.warmup=2steps"],
        [(8, "restart"), (16, "restart")],
    ),
    "plateaus: the evaluation at step 0 is the best, as nothing is learnt": (
        {"on_plateau": 2},
        ["data.validation=0.3", "optimizer.lr=0", "evaluate_every=3steps"],
        [(6, "plateau"), (15, "plateau")],  # counted anew from 9 on
    ),
}  # fmt: skip


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("when", WHEN)
def test_snapshots_are_taken_at(pushed, when):
    values, more, expected = WHEN[when]
    folder = pushed(*more, **values)
    assert events(folder) == [(step, "snapshot", because) for step, because in expected]
    step, because = expected[0]
    assert (
        f"step {step:6d}  checkpoint_distance: snapshot (because {because}, snapshots 1)"
        in (folder / "log.txt").read_text()
    )


def test_until_the_first_snapshot_the_run_is_the_one_without_the_term_and_then_another(trained, pushed):
    a = trained(*QUICK, "duration=12steps")
    b = pushed(name="b", duration="12steps", at="[12steps]")
    c = pushed(name="c", duration="12steps", at="[10steps]")
    assert same_weights(a, b)
    assert not same_weights(a, c)
    assert [row["checkpoint_distance"] for row in rows(b, "train")] == [0.0] * 12


def test_rows_say_how_far_it_was_from_each_snapshot_and_how_hard_it_was_pushed(pushed):
    """Against the checkpoints of every step."""
    steps = ("checkpoint_every=1steps", "keep_checkpoints.last=50")
    folder = pushed(*steps, strength=0.4, sigma=0.3, every="5steps", keep=2, duration="18steps")
    weights = dict(vector(folder, path.name) for path in (folder / "checkpoints").glob("[sl]*.pt"))
    for row in rows(folder, "train"):
        taken = [step for step in (5, 10, 15) if step < row["step"]][-2:]
        if not taken:
            assert "checkpoint_distance_nearest" not in row
            continue
        there = weights[row["step"] - 1]
        distances = [(there - weights[step]).norm().item() for step in taken]
        assert row["checkpoint_distance_distances"] == pytest.approx(distances, rel=1e-4, abs=1e-7)
        heights = [0.4 * math.exp(-(d**2) / (2 * 0.3**2)) for d in distances]
        assert row["checkpoint_distance"] == pytest.approx(sum(heights), rel=1e-4)
        slope = sum(h / 0.3**2 * (there - weights[s]) for h, s in zip(heights, taken, strict=True))
        assert row["checkpoint_distance_gradient"] == pytest.approx(slope.norm().item(), rel=1e-3, abs=1e-7)
        assert row["checkpoint_distance_snapshots"] == len(taken)
        assert row["checkpoint_distance_gradient_ratio"] >= 0
    assert row["total"] == pytest.approx(row["cross_entropy"] + row["checkpoint_distance"], rel=1e-5)


def test_the_strategy_pushes_until_it_is_far_settles_and_does_so_again(pushed):
    steps = ("checkpoint_every=1steps", "keep_checkpoints.last=99")
    folder = pushed(
        *steps,
        strength=3, units="snapshot_norm", sigma=0.1, at="[4steps]", until_distance=0.2, settle="5steps", times=2,
        duration="40steps",
    )  # fmt: skip
    told = events(folder)
    (first, _, _), (far, _, _), (second, _, _), (end, _, _) = told
    assert [t[1:] for t in told] == [
        ("snapshot", "at"), ("far enough", None), ("snapshot", "settled"), ("far enough", None)
    ]  # fmt: skip
    assert (first, second) == (4, far + 5)
    assert f"step {far:6d}  checkpoint_distance: far enough (nearest " in (folder / "log.txt").read_text()
    weights = dict(vector(folder, path.name) for path in (folder / "checkpoints").glob("[sl]*.pt"))

    def left(step, *snapshots):
        return all((weights[step] - weights[s]).norm() >= 0.2 * weights[s].norm() for s in snapshots)

    assert [left(step, first) for step in range(first + 1, far + 1)] == [False] * (far - first - 1) + [True]
    assert [left(step, first, second) for step in range(second + 1, end + 1)][:-1] == [False] * (end - second - 1)
    assert left(end, first, second)
    off = [row for row in rows(folder, "train") if far < row["step"] <= second or row["step"] > end]
    assert {row["checkpoint_distance"] for row in off} == {0.0}
    assert {row["checkpoint_distance_strength"] for row in off} == {0.0}
    pushing = [row for row in rows(folder, "train") if first < row["step"] <= far]
    assert min(row["checkpoint_distance"] for row in pushing) > 0


def test_snapshots_of_other_runs_are_there_from_the_start(trained, pushed):
    one = trained(*QUICK, "duration=6steps", "checkpoint_every=3steps", name="one")
    files = "[outputs/one,outputs/one/checkpoints/step-00000003.pt]"
    kept = ("checkpoint_every=1steps", "keep_checkpoints.last=9")
    two = pushed("seed=1", *kept, name="two", duration="2steps", files=files)
    there = vector(two, "step-00000001.pt")[1]
    distances = [(there - vector(one, name)[1]).norm().item() for name in ("last.pt", "step-00000003.pt")]
    assert rows(two, "train")[1]["checkpoint_distance_distances"] == pytest.approx(distances, rel=1e-5)
    assert rows(two, "train")[0]["checkpoint_distance_snapshots"] == 2
    assert events(two) == []


class Killed:
    """Ends the process at once after one of its steps."""

    def __init__(self, step):
        self.step = step

    def __call__(self):
        advance = Progress.advance

        def advance_and_die(progress, batch):
            advance(progress, batch)
            if progress.step == self.step:
                os.kill(os.getpid(), signal.SIGKILL)

        Progress.advance = advance_and_die


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_push_goes_on_bit_for_bit(tmp_path):
    command = (
        *QUICK, "regularizer=[l2,checkpoint_distance]", "duration=30steps", "checkpoint_every=4steps",
        "evaluate_every=7steps", "data.validation=0.2", "hydra.run.dir=.",
        *options(strength=2, sigma=0.4, at="[5steps]", on_plateau=2, until_distance=1.0, settle="3steps", keep=2),
    )  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    assert forked(*command, folder=whole) == 0
    steps = [step for step, _, _ in events(whole)]
    assert len(steps) > 3
    for step in (steps[0] + 2, steps[2] + 1):
        assert forked(*command, folder=parts, before=Killed(step)) == -signal.SIGKILL
    assert forked(*command, folder=parts) == 0
    assert timeless(rows(parts)) == timeless(rows(whole))
    assert timeless(summary(parts)) == timeless(summary(whole))
    states = [torch.load(f / "checkpoints/last.pt", weights_only=True) for f in (whole, parts)]
    assert equal(*(state["regularizers"] for state in states))
    assert len(states[0]["regularizers"]["checkpoint_distance"]["snapshots"]) == 2
    assert equal(*(state["model"] for state in states))


@pytest.mark.parametrize(
    "optimizer",
    [
        ("optimizer=ehnewton", "model.hidden=[]"),  # without a snapshot, in closed form
        ("optimizer=ehnewton", "optimizer.curvature=gauss_newton"),
        ("optimizer=adaptive_nesterov",),
        ("optimizer=newton",),
    ],
    ids=lambda o: o[-1],
)
def test_every_kind_of_optimizer_runs_with_it(pushed, optimizer):
    folder = pushed("model.hidden=[4]", *optimizer, "data.size=4", at="[2steps]", duration="5steps")
    at_it, *late = rows(folder, "train")[2:]
    assert at_it["checkpoint_distance"] == pytest.approx(1.0, rel=0.01)  # Nesterov's looks ahead of the snapshot
    assert all(0 <= row["checkpoint_distance"] < 1 and row["checkpoint_distance_nearest"] > 0 for row in late)
    # what needs the graph leaves no gradients to compare with
    assert all(("checkpoint_distance_gradient_ratio" in row) == ("nesterov" in optimizer[0]) for row in late)


def test_what_is_made_of_rows_copes_with_events(trained, pushed, trainopt):
    bare = trained(*QUICK, "duration=8steps", name="bare")
    folder = pushed("logger=tensorboard", name="pushed", at="[2steps]", until_distance=0.1, duration="8steps")
    metrics = load_run(folder).metrics
    assert metrics[metrics["kind"] == "event"]["regularizer"].tolist() == ["checkpoint_distance"] * 2
    assert len(read_comparison([bare, folder]).methods) == 2
    assert trainopt("evaluate", "outputs/pushed").code == 0


REFUSED = {
    "no restarts": ({"at_restarts": "true"}, "at_restarts=true: needs a schedule that restarts"),
    "nothing held out": ({"on_plateau": 3}, "on_plateau=3: needs a validation set"),
    "settling from nothing": (
        {"settle": "3steps"},
        "settle=3steps: is a time after the distance is reached; give until_distance",
    ),
    "no occasion": ({"at": "[]"}, "at=[]: there is no reason to take a snapshot"),
    "no such run": ({"files": "[outputs/none]"}, "files: outputs/none: no such checkpoint"),
    "another network": ({"files": "[outputs/other]"}, "of shape [9, 64], and must be of shape [8, 64]"),
    "too many files": ({"files": "[a,b]", "keep": 1}, "keep=1: there are 2 files; give at least as many, or null"),
    "a width of 0": ({"sigma": 0}, "regularizer.checkpoint_distance.sigma=0: must be > 0"),
    "no duration": ({"at": "[3]"}, "regularizer.checkpoint_distance.at=[3]: must be a list of duration"),
}


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(trained, why):
    values, message = REFUSED[why]
    if "other" in str(values):
        trained(*QUICK, "model.hidden=[9]", "duration=1steps", name="other")
    assert message in refusal(*QUICK, TERM, *options(**values))


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt(*QUICK, TERM, *options(at_restarts="true"))
    assert result.code == 2
    assert "at_restarts=true: needs a schedule that restarts" in result.err
    assert result.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
