"""Probes: a run with one is the run without, bit for bit; what they say is right; one's own works."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers.cli import built, refusal
from helpers.runs import equal, rows, state, summary, timeless, weights
from trainopt.runner.state.clocks import Clocks

TAYLOR = ("probe=[taylor]", "probe.taylor.every=4steps")
# test_resnet, timm's smallest, has batch norm, and here dropout and stochastic depth
RESNET = (
    *("model=timm", "model.name=test_resnet", "model.drop_rate=0.3", "model.drop_path_rate=0.2"),
    *("data.limit=120", "batching.size=8"),
)
MLP = ("model=mlp", "model.hidden=[20]", "model.dropout=0.3", "data.limit=300", "regularizer=[l2]")
RUN = ("duration=14steps", "log_every=1steps", "checkpoint_every=5steps", "logger=none", "augmentation.flip=0.5")
CASES = {
    "sgd, batch norm, dropout, stochastic depth": RESNET,
    "adam, dropout, l2": (*MLP, "optimizer=adam"),
    "adaptive nesterov, dropout, l2": (*MLP, "optimizer=adaptive_nesterov"),
    "ehnewton, dropout, l2": (*MLP, "optimizer=ehnewton", "optimizer.lr=0.1"),
}


def apart(folder):
    """The rows that are no probe's, without times."""
    return timeless([row for row in rows(folder) if row["kind"] != "probe"])


@pytest.mark.quick_every(4)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_run_with_a_probe_is_the_run_without(trained, tmp_path, case):
    trained(*RUN, *case, name="without")
    trained(*RUN, *case, *TAYLOR, name="with")
    one, other = tmp_path / "outputs/without", tmp_path / "outputs/with"
    assert equal(state(one), state(other))  # weights, buffers, the optimizer's state, generators, counts
    assert apart(one) == apart(other)
    assert [row["step"] for row in rows(other, "probe")] == [4, 8, 12]
    assert summary(one)["seconds"]["probes"] == 0 < summary(other)["seconds"]["probes"]
    assert summary(one)["gradients"] == summary(other)["gradients"] == 14


THEIR_PROBES = """
import torch

class Spread:
    def __init__(self, every="1epochs", factor=1.0):
        self.every, self.factor = every, factor

    def before_step(self, run, batch):
        torch.rand(5)  # draws where it should not
        self.size = len(batch.targets)

    def after_step(self, run, batch):
        torch.rand(7)
        return {"size": self.factor * self.size, "list": [1, 2]}
"""


def test_a_probe_of_ones_own_needs_a_yaml_alone(trained, trainopt, tmp_path, monkeypatch):
    (tmp_path / "their_probes.py").write_text(THEIR_PROBES)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "more/probe").mkdir(parents=True)
    (tmp_path / "more/probe/spread.yaml").write_text(
        "spread: {_target_: their_probes.Spread, every: 2steps, factor: 0.5}\n"
    )
    command = (*RUN, *MLP, "duration=4steps")
    trained(*command, name="without")
    both = trainopt("--config-dir", "more", *command, "probe=[taylor,spread]", *TAYLOR[1:], "run.name=with")
    assert both.code == 0, both.err
    found = rows(tmp_path / "outputs/with", "probe")
    assert [(row["step"], row["probe"]) for row in found] == [(2, "spread"), (4, "taylor"), (4, "spread")]
    assert (found[0]["size"], found[0]["list"]) == (64, [1, 2])
    assert equal(weights(tmp_path / "outputs/with"), weights(tmp_path / "outputs/without"))


def test_values_are_drawn_by_tensorboard(trained, tmp_path):
    trained(*RUN, *MLP, *TAYLOR, "logger=tensorboard")
    events = EventAccumulator(str(tmp_path / "outputs/a"))
    events.Reload()
    drawn = [(e.step, e.value) for e in events.Scalars("probe/taylor/actual_change")]
    expected = [(r["step"], pytest.approx(r["actual_change"])) for r in rows(tmp_path / "outputs/a", "probe")]
    assert drawn == expected


def test_a_checkpoint_from_before_there_was_a_clock_for_probes_is_read():
    clocks = Clocks(torch.device("cpu"))
    clocks.load_state_dict({"train": 3.0, "evaluation": 2.0, "checkpoint": 1.0, "other": 0.5})
    assert clocks.seconds["probes"] == 0.0
    assert clocks.seconds["train"] == 3.0


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("probe=[tailor]", "probe=tailor: no such option; did you mean taylor? there are "),
        (
            "probe=[taylor] probe.taylor.evry=1steps",
            "probe.taylor.evry: unknown key; did you mean probe.taylor.every?",
        ),
        (
            "probe=[taylor] +probe.taylor.evry=1steps",
            "probe.taylor.evry: unknown key; did you mean probe.taylor.every?",
        ),
        ("probe=[taylor] probe.taylor.every=5", "probe.taylor.every=5: must be a duration"),
        ("+probe.taylor.every=5steps", "probe.taylor._target_ is missing"),
        ("+probe.taylor=5", "probe.taylor._target_ is missing"),
        (
            "+probe.mine._target_=torch.nn.ReLU",
            "probe.mine: ReLU is no probe; it has no attribute every and no method before_step or after_step",
        ),
        ("probe=[taylor] compile=true", "compile=true: TaylorProbe needs the graph of the gradient"),
        (
            "optimizer=adaptive_nesterov schedule=exponential",
            "schedule: AdaptiveNesterov computes its learning rate itself; give schedule=constant",
        ),
        (
            "optimizer=adaptive_nesterov optimizer.lr=0.1",
            "optimizer.lr: optimizer=adaptive_nesterov has no such key",
        ),
        ("optimizer=adaptive_nesterov optimizer.lr_bounds=[1,0]", "optimizer.lr_bounds="),
        (
            "optimizer=adaptive_nesterov optimizer.gamma=0",
            "optimizer.gamma=0: must be > 0",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    assert message in refusal("model=mlp", *arguments.split())


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=mlp", "probe=[taylor]", "compile=true")
    assert result.code == 2
    assert result.err.startswith("trainopt: compile=true: TaylorProbe needs the graph of the gradient")
    assert result.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_help_page_shows_the_group_and_its_keys(trainopt):
    result = trainopt("--help", "probe=[taylor]")
    assert "  probe: " in result.out
    assert "every: 50steps # a duration" in result.out


@pytest.mark.parametrize(
    ("every", "duration", "comes"),
    [
        ("50steps", "20steps", False),
        ("20steps", "20steps", True),
        ("50steps", "4epochs", False),
        ("2epochs", "9steps", False),
    ],
)
def test_a_probe_that_never_comes_is_noted(every, duration, comes):
    run = built("model=mlp", "probe=[taylor]", f"probe.taylor.every={every}", f"duration={duration}")
    assert (f"probe.taylor.every={every} never comes in a run of {duration}: it has no rows" in run.notes) != comes
