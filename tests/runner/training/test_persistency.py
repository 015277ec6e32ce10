"""Persistency: K updates on a batch are K updates by hand; stages, the rate of repeats, counts, refusals."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.cli import built, refusal
from helpers.runs import equal, rows, same_weights, stop_at, summary, timeless, train_run, weights
from trainopt.data import Batching
from trainopt.optimizers import EHNewton
from trainopt.runner.config.contracts import complete
from trainopt.runner.state.progress import Progress
from trainopt.runner.state.update_scale import ScaledUpdate

DATA = (
    "data.limit=100",
    "batching.size=30",
    "augmentation.flip=0.5",
    "augmentation.crop_padding=1",
    "logger=none",
    "device=cpu",
)
SPANS = [(0, 30), (30, 60), (60, 90), (90, 100)]
MLP = (*DATA, "model=mlp", "model.hidden=[16]")
RESNET = (*DATA, "model=resnet8")


def by_hand(command, make_optimizer, repeats, epochs=2, lr=None):
    """The weights that a plain loop over epochs, batches and repeats ends in, from the same weights and images.

    Args:
        command: which network and data.
        make_optimizer: from parameters.
        repeats: K.
        epochs: passes over the data.
        lr: of (step, repeat); None: the optimizer's own.
    """
    run = built(*command)
    network, images = run.network, run.training_set
    optimizer, step = make_optimizer(network.parameters()), 0
    network.train()
    for epoch in range(epochs):
        for inputs, targets in images.epoch(0, epoch, SPANS):
            for repeat in range(repeats):
                if lr is not None:
                    optimizer.param_groups[0]["lr"] = lr(step, repeat)
                if isinstance(optimizer, EHNewton):
                    optimizer.step(lambda x=inputs, y=targets: cross_entropy(network(x), y))
                else:
                    optimizer.zero_grad()
                    cross_entropy(network(inputs), targets).backward()
                    optimizer.step()
                step += 1
    return network.state_dict()


OPTIMIZERS = {
    "sgd with momentum, batch norm": (
        (*RESNET, "optimizer=sgd", "optimizer.lr=0.05", "optimizer.momentum=0.5", "optimizer.nesterov=false"),
        lambda params: torch.optim.SGD(params, lr=0.05, momentum=0.5),
    ),
    "adam": (
        (*MLP, "optimizer=adam", "optimizer.lr=0.01"),
        lambda params: torch.optim.Adam(params, lr=0.01),
    ),
    "ehnewton": (
        (*MLP, "optimizer=ehnewton", "optimizer.lr=0.1", "optimizer.damping=0.1", "optimizer.cg_max_iter=3"),
        lambda params: EHNewton(params, lr=0.1, damping=0.1, cg_max_iter=3),
    ),
}


@pytest.mark.parametrize("case", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_three_updates_a_batch_are_those_of_a_loop_by_hand(trained, case):
    command, make_optimizer = case
    folder = trained(*command, "duration=2epochs", "batching.persistency=3")
    assert equal(weights(folder), dict(by_hand(command, make_optimizer, repeats=3)))
    found = summary(folder)
    # two passes over the data, of four batches each, three times
    assert (found["epochs"], found["steps"], found["gradients"], found["samples"]) == (2.0, 24, 24, 600)


WITHOUT_REPEATS = """
class Plain:
    def __init__(self, size):
        self.size = size

    def spans(self, epoch_size, offset):
        for start in range(offset, epoch_size, self.size):
            yield start, min(start + self.size, epoch_size)
"""


@pytest.mark.slow
def test_one_update_a_batch_is_no_persistency(trained, tmp_path, monkeypatch):
    (tmp_path / "without_repeats.py").write_text(WITHOUT_REPEATS)
    monkeypatch.syspath_prepend(tmp_path)
    command = (*RESNET, "duration=3epochs", "log_every=1steps", "optimizer=adam")
    plain = trained(*command, "batching._target_=without_repeats.Plain", name="plain")
    for name, persistency in (("one", "1"), ("stages", "[1,1]")):
        one = trained(*command, f"batching.persistency={persistency}", name=name)
        assert timeless(rows(one)) == timeless(rows(plain))
        assert same_weights(one, plain)


def test_stages_are_counted_and_evaluated_in_passes_over_the_data(trained):
    command = (*MLP, "batching.size=10", "duration=1epochs", "batching.persistency=[5,2,1]")
    folder = trained(*command, "evaluate_every=0.5epochs", "log_every=1steps")
    # stages end at 33.3 and 66.7 images: 4, 3 and 3 batches begin in them
    found = summary(folder)
    assert (found["steps"], found["epochs"], found["gradients"], found["samples"]) == (29, 1.0, 29, 290)
    assert [row["step"] for row in rows(folder, "test")] == [0, 4 * 5 + 2, 29]
    complete = [batch for batch, k in enumerate([5] * 4 + [2] * 3 + [1] * 3) for _ in range(k)]
    complete = [*complete[1:], 10]  # after an update: batches that are used up
    assert [row["epoch"] for row in rows(folder, "train")] == [batch / 10 for batch in complete]
    assert [row["samples"] for row in rows(folder, "train")] == [10 * step for step in range(1, 30)]


@pytest.mark.slow
def test_evaluations_and_probes_between_repeats_change_nothing(trained):
    command = (*RESNET, "duration=14steps", "batching.persistency=4", "log_every=1steps")
    alone = trained(*command, "evaluate_every=100steps", name="alone")
    more = ("evaluate_every=3steps", "checkpoint_every=2steps", "probe=[taylor]", "probe.taylor.every=5steps")
    watched = trained(*command, *more, name="watched")
    assert [row["step"] for row in rows(watched, "test")] == [0, 3, 6, 9, 12, 14]
    assert [row["step"] for row in rows(watched, "probe")] == [5, 10]
    assert timeless(rows(watched, "train")) == timeless(rows(alone, "train"))
    assert same_weights(watched, alone)


# the learning rate of every step of 3 repeats, with a schedule that halves it every 4 steps
RATED = (
    *("optimizer=sgd", "optimizer.lr=0.4", "optimizer.momentum=0.5", "optimizer.nesterov=false"),
    *("schedule=exponential", "schedule.gamma=0.5", "schedule.every=4steps"),
    *("batching.persistency=3", "batching.repeat_lr_factor=0.7", "duration=2epochs", "log_every=1steps"),
)


def rate(step, repeat):
    return 0.4 * 0.5 ** (step // 4) * 0.7**repeat


def test_each_repeat_has_a_factor_on_what_the_schedule_says(trained):
    folder = trained(*RESNET, *RATED)
    assert [row["lr"] for row in rows(folder, "train")] == [rate(step, step % 3) for step in range(24)]
    plain = by_hand(RESNET, lambda params: torch.optim.SGD(params, lr=1.0, momentum=0.5), repeats=3, lr=rate)
    assert equal(weights(folder), dict(plain))


def test_a_checkpoint_between_repeats_holds_the_rate_of_the_schedule(tmp_path, monkeypatch):
    stop_at(monkeypatch, 5)
    # a schedule that never sets the rate: what is in the optimizer is what repeats left there
    options = ("optimizer.lr=0.4", "batching.persistency=3", "batching.repeat_lr_factor=0.7", "duration=9steps")
    assert train_run(tmp_path, *MLP, *options) == 130
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert (state["progress"]["step"], state["progress"]["repeat"]) == (5, 2)
    assert state["optimizer"]["param_groups"][0]["lr"] == 0.4


def test_every_group_gets_the_factor_and_loses_it_where_the_update_fails():
    one, two = torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(1.0))
    optimizer = torch.optim.SGD([{"params": one, "lr": 0.5}, {"params": two, "lr": torch.tensor(2.0)}])
    progress = Progress(epoch_size=1, repeat=2)
    batching = complete(SimpleNamespace(repeat_lr_factor=0.5), Batching, "batching")
    update = ScaledUpdate(optimizer, batching, progress)

    def closure():
        optimizer.zero_grad()
        loss = one + two
        loss.backward()
        return loss

    assert update.step(closure) == 2.0
    assert (one.item(), two.item(), update.lr) == (1 - 0.5 * 0.25, 1 - 2 * 0.25, 0.5 * 0.25)
    with pytest.raises(ZeroDivisionError):
        update.step(lambda: 1 / 0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]


def test_a_run_that_diverges_in_a_repeat_keeps_the_rate_of_the_schedule(trained):
    wild = ("optimizer=sgd", "optimizer.lr=1e30", "batching.persistency=8", "batching.repeat_lr_factor=0.5")
    folder = trained(*MLP, *wild, "duration=8steps")
    assert summary(folder)["status"] == "diverged"
    state = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["repeat"] > 0
    assert state["optimizer"]["param_groups"][0]["lr"] == 1e30


def test_a_repeat_that_is_short_ends_the_run_within_the_batch(trained):
    more = ("batching.persistency=4", "batching.repeat_lr_factor=1e-9", "early_stopping.min_step_norm=1e-6")
    folder = trained(*MLP, *more, "optimizer=sgd", "duration=8steps")
    assert summary(folder)["steps"] == 2
    assert "shorter than early_stopping.min_step_norm" in summary(folder)["stopped_because"]


THEIRS = """
class NoRate:
    param_groups = [{"params": []}]

    def __init__(self, params):
        pass

    step = state_dict = load_state_dict = lambda self, *_: None
"""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "batching.persistency=0",
            "batching.persistency=0: must be >= 1",
        ),
        (
            "batching.persistency=[5,0]",
            "batching.persistency=[5, 0]: must be >= 1",
        ),
        ("batching.persistency=1.5", "batching.persistency=1.5: must be an integer or a list of integer"),
        ("batching.persistency=[]", "batching.persistency=[]: must have at least one stage"),
        ("batching.repeat_lr_factor=0", "batching.repeat_lr_factor=0: must be a number > 0"),
        ("+batching.duration=3epochs", "batching.duration: unknown key"),
        (
            "optimizer=adaptive_nesterov batching.repeat_lr_factor=0.5",
            "batching.repeat_lr_factor=0.5: AdaptiveNesterov computes its learning rate itself; give 1",
        ),
        (
            "optimizer._target_=without_a_rate.NoRate batching.repeat_lr_factor=0.5",
            "batching.repeat_lr_factor=0.5: NoRate has no learning rate; give 1",
        ),
    ],
)
def test_bad_values_are_refused_in_one_line(tmp_path, monkeypatch, command, message):
    (tmp_path / "without_a_rate.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal("model=mlp", *command.split()).startswith(message)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model=mlp", "batching.repeat_lr_factor=0")
    assert result.code == 2
    assert result.err == "trainopt: batching.repeat_lr_factor=0: must be a number > 0\n"
    assert not (tmp_path / "outputs").exists()
