"""Averaged weights: against plain PyTorch loops bit for bit; what evaluations take; that nothing else changes."""

import sys
from itertools import islice

import pytest
import schedulefree
import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from helpers.cli import built, refusal
from helpers.runs import equal, rows, summary, train_run
from trainopt.data import Position, batches
from trainopt.optimizers import EMA, SWA
from trainopt.runner.analysis.checkpoints import find_checkpoints, rebuilt_runs
from trainopt.runner.state.evaluation import evaluate
from trainopt.runner.system.display import Display

STEPS = 4  # two epochs
RESNET = ("model=resnet8", "data.limit=40", "batching.size=20", f"duration={STEPS}steps", "logger=[]", "device=cpu")
SHIFTED = ("augmentation.crop_padding=1", "augmentation.flip=0.5")
EMA_RUN = ("averaging=ema", "averaging.decay=0.6", "averaging.warmup=false")
SWA_RUN = ("averaging=swa", "averaging.start=0.3", "averaging.every=2steps")
SCHEDULE_FREE = {
    "schedulefree_adamw": (schedulefree.AdamWScheduleFree, {"lr": 0.0025}),
    "schedulefree_sgd": (schedulefree.SGDScheduleFree, {"lr": 1.0}),
}
MLP = ("model=mlp", "model.hidden=[8]", "data.limit=40", "batching.size=10", "duration=8steps", "logger=[]")


def plain_loop(run, optimizer, after_step=lambda step: None):
    """Trains a run's network for some steps as people write it."""
    stream = batches(run.training_set, run.batching, run.seed, Position())
    run.network.train()
    for step in range(1, STEPS + 1):
        inputs, targets, _, _ = next(stream)
        optimizer.zero_grad()
        cross_entropy(run.network(inputs), targets).backward()
        optimizer.step()
        after_step(step)


def first_epoch(run):
    """The training batches of the first epoch, as a loader."""
    spans = list(run.batching.spans_from(Position(), len(run.training_set)))
    return run.training_set.epoch(run.seed, 0, spans)


def state(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.pt", weights_only=True)


def check_evaluations(folder, run, averaged):
    """Asserts that the checkpoint holds both, and that the last rows are of both."""
    content = state(folder)
    assert equal(dict(content["model"]), dict(run.network.state_dict()))
    assert equal(dict(content["averaging"]["model"]), dict(averaged.state_dict()))
    row = rows(folder, "test")[-1]
    options = (run.evaluation_sets["test"], run.evaluation_batch_size, run.objective.loss, run.metrics)
    of_average, of_weights = (evaluate(network, network, *options) for network in (averaged, run.network))
    assert {key: row[key] for key in of_average} == of_average
    assert (row["raw_loss"], row["raw_top1"]) == (of_weights["loss"], of_weights["top1"])
    assert row["loss"] != row["raw_loss"]
    assert summary(folder)["final"]["loss"] == of_average["loss"]


def test_ema_is_that_of_a_plain_loop(trained):
    run = built(*RESNET)
    averaged = AveragedModel(run.network, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True)
    optimizer = torch.optim.SGD(run.network.parameters(), lr=0.1, momentum=0.9)
    plain_loop(run, optimizer, lambda _: averaged.update_parameters(run.network))
    check_evaluations(trained(*RESNET, *EMA_RUN, "optimizer.momentum=0.9"), run, averaged.module)


def test_warm_up_of_ema_is_timms():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    mine, timms = EMA(network, decay=0.5), ModelEmaV3(network, decay=0.5, use_warmup=True)
    for step in range(1, 5):
        with torch.no_grad():
            network[0].weight.add_(step)
            network(torch.randn(5, 3))
        mine.after_step()
        timms.update(network, step=step)
    mine.apply()
    expected = timms.module.state_dict()
    del expected["1.num_batches_tracked"]  # which timm rounds in another way
    assert all(torch.equal(network.state_dict()[name], value) for name, value in expected.items())


def test_swa_is_that_of_a_plain_loop(trained):
    run = built(*RESNET, *SHIFTED)
    averaged = AveragedModel(run.network)

    def after_step(step):
        if step in (2, 4):  # from 0.3 of the run on
            averaged.update_parameters(run.network)

    plain_loop(run, torch.optim.SGD(run.network.parameters(), lr=0.1, momentum=0.9), after_step)
    update_bn(first_epoch(run), averaged)
    check_evaluations(trained(*RESNET, *SHIFTED, *SWA_RUN, "optimizer.momentum=0.9"), run, averaged.module)


@pytest.mark.parametrize("name", ["schedulefree_adamw", pytest.param("schedulefree_sgd", marks=pytest.mark.slow)])
def test_a_schedule_free_run_is_a_plain_loop(trained, name):
    kind, options = SCHEDULE_FREE[name]
    run, other = built(*RESNET), built(*RESNET)
    optimizer = kind(run.network.parameters(), **options)
    optimizer.train()
    plain_loop(run, optimizer)
    other.network.load_state_dict(run.network.state_dict())
    optimizer.eval()
    update_bn(first_epoch(run), run.network)
    check_evaluations(trained(*RESNET, f"optimizer={name}"), other, run.network)


@pytest.mark.parametrize(
    "options",
    [
        (*MLP, "model.dropout=0.5", "regularizer=[l2]", *SWA_RUN),
        (*RESNET, "duration=2steps", *SHIFTED, "optimizer=schedulefree_adamw"),
    ],
    ids=["swa", "schedule-free"],
)
def test_a_run_that_is_evaluated_more_often_is_the_same_run(trained, options):
    rarely = trained(*options, "evaluate_every=1e9epochs", "checkpoint_every=1e9epochs", name="rarely")
    often = trained(*options, "evaluate_every=1steps", "checkpoint_every=1steps", name="often")
    for key in ("model", "optimizer", "averaging", "rng"):
        assert equal(state(rarely)[key], state(often)[key]), key


def test_what_loads_a_checkpoint_takes_the_average(trained, trainopt, tmp_path):
    folder = trained(*RESNET, *SWA_RUN)
    last = rows(folder, "test")[-1]
    (run,) = rebuilt_runs(find_checkpoints([folder], "last"), None, Display(quiet=True))
    assert run.evaluate("test") == {key: last[key] for key in ("loss", "top1", "top5")}
    shown = trainopt("evaluate", str(folder)).out
    assert "last.pt, step 4, averaged weights" in shown
    assert f"{last['loss']:.4f}" in shown
    assert train_run(tmp_path / "b", *RESNET, f"model.weights={folder}/checkpoints/last.pt", "duration=1steps") == 0
    assert rows(tmp_path / "b", "test")[0]["loss"] == last["loss"]


def test_before_there_is_an_average_evaluations_take_the_weights(trained):
    folder = trained(*MLP, "averaging=swa", "averaging.start=6steps", "averaging.every=1steps", "evaluate_every=1steps")
    evaluations = rows(folder, "test")
    assert [row["loss"] == row["raw_loss"] for row in evaluations] == [True] * 7 + [False] * 2
    assert state(folder, "best")["averaging"].keys() >= {"count"}


@pytest.mark.parametrize(
    ("start", "every", "steps"),
    [
        (0.5, "1epochs", [4, 8]),
        ("5steps", "2steps", [5, 7]),
        (0.0, "3steps", [1, 4, 7]),
        (0.75, "0.1epochs", [6, 7, 8]),
    ],
)
def test_when_swa_takes_weights(start, every, steps):
    run = built(*MLP)
    swa = SWA(run.network, run.progress, "8steps", start, every)
    taken = []
    for batch in islice(run.batches(), 8):
        run.progress.advance(batch)
        before = swa.count
        swa.after_step()
        if swa.count > before:
            taken.append(run.progress.step)
    assert taken == steps


def test_the_average_of_a_last_layer_is_that_of_the_head(trained):
    folder = trained(*MLP, "model.trainable=last_layer", "averaging=ema")
    network = built(*MLP, "model.trainable=last_layer", "averaging=ema").averaged.averaging.network
    assert [name for name, _ in network.named_parameters()] == ["layers.0.weight", "layers.0.bias"]
    content = state(folder)
    assert content["averaging"]["model"].keys() == content["model"].keys()


def test_the_start_says_what_is_evaluated():
    assert built(*MLP, "averaging=ema").notes == ["evaluations are of averaged weights (EMA)"]
    assert built(*RESNET, "optimizer=schedulefree_sgd").notes == [
        "evaluations are of averaged weights (SGDScheduleFree), with batch norm's statistics from 50 training batches"
    ]


class Previous:
    """The weights before the last step, instead of an average."""

    def __init__(self, network):
        self.network, self.count = network, 0
        self.weights = [p.detach().clone() for p in network.parameters()]

    def after_step(self):
        self.count += 1
        self.before, self.weights = self.weights, [p.detach().clone() for p in self.network.parameters()]

    def apply(self):
        with torch.no_grad():
            for p, value in zip(self.network.parameters(), self.before, strict=True):
                p.copy_(value)

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_an_average_of_ones_own_is_evaluated(trained):
    folder = trained(*MLP, f"averaging._target_={__name__}.Previous", "evaluate_every=1steps")
    evaluations = rows(folder, "test")
    assert [row["loss"] for row in evaluations[1:]] == [row["raw_loss"] for row in evaluations[:-1]]


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    line = "schedulefree is not installed; pip install 'trainopt[optimizers]'"
    assert refusal(*MLP, "optimizer=schedulefree_sgd").endswith(line)


class WithoutTrain(torch.optim.SGD):
    def __init__(self, params):
        super().__init__(params, lr=0.1)

    def eval(self):
        """Goes to the average, and never back."""


class Counting(WithoutTrain):
    def train(self):
        """Counts its calls in the state."""
        group = self.param_groups[0]
        group["calls"] = group.get("calls", 0) + 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("averaging=ema optimizer=schedulefree_adamw", "averaging: AdamWScheduleFree averages the weights itself"),
        ("averaging=swa averaging.start=1.2", "averaging.start=1.2: must be a number in [0, 1) or a duration"),
        ("averaging=swa averaging.start=9epochs", "averaging.start=9epochs: never comes in a run of 8steps"),
        ("averaging=ema schedule=range_test", "averaging: EMA averages the weights, and those of a range test"),
        ("averaging=ema regularizer=[checkpoint_distance]", "regularizer.checkpoint_distance: drives the weights away"),
        (
            "optimizer=schedulefree_sgd regularizer=[checkpoint_distance]",
            "while SGDScheduleFree averages the weights; give another optimizer",
        ),
        ("optimizer=schedulefree_adamw optimizer.betas=[0,0.9]", "fails in eval() after its steps (division by zero)"),
        (f"optimizer._target_={__name__}.Counting", "eval() and train() of Counting change its state"),
        (f"optimizer._target_={__name__}.WithoutTrain", "optimizer: WithoutTrain has eval() and no train()"),
    ],
)
def test_what_cannot_go_together_is_refused(command, message):
    assert message in refusal(*MLP, *command.split())
