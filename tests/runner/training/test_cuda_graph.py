"""Steps that are replayed: through a stand-in for CUDA graphs on a CPU, bit for bit as eager ones; what stays eager."""

import random

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from helpers.cli import built, refusal
from helpers.gpu import on_gpu
from helpers.runs import check_same_run, equal, run_with_and_without_graphs, summary
from trainopt.runner.training import divergence
from trainopt.runner.training.graphs import choice
from trainopt.runner.training.graphs.closure import GraphedClosure
from trainopt.runner.training.graphs.updates import updates_of

CONVNET = ("model=resnet8", "data.limit=50", "batching.size=20", "logger=[]", "log_every=1steps")
KIT = ("averaging=ema", "gradient.clip_norm=1.0", "schedule=cosine", "optimizer.lr=0.05", "regularizer=[l2]")
MLP = ("model=mlp", "model.hidden=[8]", "model.dropout=0.3", "data.limit=50", "batching.size=20", "logger=[]")
ADAM = (*MLP, "optimizer=adam", "gradient.accumulation_steps=2", "log_every=2steps")
CASES = [(*CONVNET, *KIT), ADAM]


@pytest.mark.parametrize("options", [CASES[0], pytest.param(CASES[1], marks=pytest.mark.slow)], ids=["kit", "adam"])
def test_a_run_is_the_run_of_eager_steps(trained, stand_in, monkeypatch, options):
    """With batches of two sizes, each with a graph from its third on; dropout; records that are written late."""
    run = (*options, "duration=14steps", "evaluate_every=6steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert stand_in.replays == [8, 2]  # of 10 and 4 batches
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    check_same_run(one, trained(*run, name="eager"))


@pytest.mark.slow
def test_a_replayed_run_that_diverges_ends_as_an_eager_one(trained, stand_in, monkeypatch):
    monkeypatch.setattr(divergence, "DEFERRED_ON", ("cpu",))
    run = (*CONVNET, "averaging=ema", "optimizer.lr=1e12", "log_every=9steps", "duration=9steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert summary(one)["status"] == "diverged"
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    monkeypatch.setattr(divergence, "DEFERRED_ON", ())
    check_same_run(one, trained(*run, name="eager"))


SGD_MLP = (*MLP[:2], "model.dropout=0.3", *MLP[3:], "log_every=7steps", "averaging=ema")
GROUPS = ("parameter_groups.rules=[{match: weight, lr: 0.02, weight_decay: 0.1}]",)
UPDATES = {
    "ema, clipping, cosine, L2": (*CONVNET, *KIT),
    "plain": (*SGD_MLP, "optimizer.momentum=0", "schedule=one_cycle", "averaging.warmup=false"),
    "one_cycle changes the momentum": (*SGD_MLP, "optimizer.nesterov=true", "schedule=one_cycle", "channels_last=true"),
    "decay, dampening": (*SGD_MLP, "optimizer.dampening=0.1", "optimizer.weight_decay=0.01", "optimizer.maximize=true"),
    "groups, scaled": (*SGD_MLP, *GROUPS, "batching.persistency=2", "batching.repeat_lr_factor=0.5"),
    "adam": (*SGD_MLP, "optimizer=adam", "schedule=cosine", "optimizer.weight_decay=0.01"),
    "adamw, amsgrad": (*SGD_MLP, "optimizer=adamw", "schedule=cosine", "optimizer.amsgrad=true"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in UPDATES if n not in ("plain", "adam", "decay, dampening")])
def test_a_step_with_its_update_is_that_of_eager_steps(trained, stand_in, late, monkeypatch, name):
    """Weights, state, average and records: those of the same command without graphs."""
    whole = []
    monkeypatch.setattr(GraphedClosure, "_replay_whole", counted(GraphedClosure._replay_whole, whole))
    run = (*UPDATES[name], "duration=14steps", "evaluate_every=6steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert "stay eager" not in (one / "log.txt").read_text()
    assert whole.count(True) == 10
    assert sum(stand_in.replays) in (10, 11)  # of Adam, the first form is another one on a CPU
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    check_same_run(one, trained(*run, name="eager"))


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SGD, {"momentum": 0.0, "maximize": True}),
        (SGD, {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
        (SGD, {"momentum": 0.9, "dampening": 0.1}),
        (Adam, {"weight_decay": 0.01}),
        (AdamW, {"amsgrad": True}),
    ],
)
def test_an_update_for_graphs_is_that_of_torch_bit_for_bit(cls, options):
    """One of the forms is, on every device; the learning rate and the momentum change."""
    torch.manual_seed(0)
    start = [torch.randn(33, 5), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(7)]
    lists = [[nn.Parameter(value.clone()) for value in start] for _ in range(3)]
    optimizers = [cls(params, lr=0.1, **options) for params in lists]

    def steps_on(lr: float, indices: tuple[int, ...]) -> None:
        gradients = [torch.randn_like(value) for value in start]
        for index in indices:
            optimizer = optimizers[index]
            optimizer.param_groups[0]["lr"] = lr
            if options.get("momentum"):
                optimizer.param_groups[0]["momentum"] = 1 - lr
            for p, gradient in zip(lists[index], gradients, strict=True):
                p.grad = gradient.clone()
            if index == 0 or lr == 0.1:
                optimizer.step()
                continue
            update = forms[index][min(index, len(forms[index])) - 1]
            update.prepare()
            with torch.no_grad():
                update.apply()
            update.finish()

    forms: dict[int, list] = {}
    steps_on(0.1, (0, 1, 2))
    for index in (1, 2):
        forms[index] = updates_of(optimizers[index], None)
    for lr in (0.037, 0.0123456, 0.0123456, 0.2):
        steps_on(lr, (0, 1, 2))
    assert any(
        all(torch.equal(a, b) for a, b in zip(lists[0], lists[index], strict=True))
        and equal(optimizers[0].state_dict()["state"], optimizers[index].state_dict()["state"])
        for index in (1, 2)
    )


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_fused_updates_stay_eager_as_their_kernels_round_the_learning_rate(cls):
    optimizer = cls([nn.Parameter(torch.ones(3))], lr=0.1, fused=True)
    with pytest.raises(ValueError, match="fused=true: the fused kernels round a learning rate on the device"):
        updates_of(optimizer, None)


def counted(method, results):
    """Returns the method, which appends what it returns."""

    def call(*arguments):
        results.append(method(*arguments))
        return results[-1]

    return call


@pytest.mark.slow
def test_a_replayed_step_that_notices_a_divergence_counts_nothing(trained, stand_in, late, monkeypatch):
    """The average of the steps that are made again is that of eager steps; statistics of batch norm are not finite."""
    monkeypatch.setattr(divergence._Readout, "poll", lambda self, number, tag: (float(number), tag))
    rates = ("optimizer.lr=0.05", "schedule=multistep", "schedule.milestones=[5steps]", "schedule.gamma=1e30")
    ends = ("evaluate_every=100epochs", "log_every=9steps", "duration=9steps", "cuda_graph=auto")
    run = (*CONVNET, "averaging=ema", *rates, *ends)
    one = trained(*run, name="graph")
    assert sum(stand_in.replays) > 2
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    monkeypatch.setattr(divergence, "DEFERRED_ON", ())
    other = trained(*run, name="eager")
    assert summary(one)["status"] == summary(other)["status"] == "diverged"
    assert summary(one)["steps"] == summary(other)["steps"] > 2
    states = [torch.load(folder / "checkpoints/last.pt", weights_only=True) for folder in (one, other)]
    for part in ("model", "optimizer", "averaging"):
        torch.testing.assert_close(*(state[part] for state in states), rtol=0, atol=0, equal_nan=True)


class Linear(nn.Module):
    """A linear classifier that does once more what no graph can repeat."""

    def __init__(self, num_classes: int, image_shape: tuple[int, ...], fault: str):
        super().__init__()
        self.linear, self.fault, self.calls = nn.Linear(image_shape[1] * image_shape[2], num_classes), fault, 0

    def forward(self, images):
        """Returns the logits."""
        outputs = self.linear(images.flatten(1))
        if self.training:
            self.calls += 1
            if self.fault == "reads" and outputs.sum().item() > 1e9:
                return -outputs
            if self.fault == "draws":
                return outputs * (1 + random.random())
            if self.fault == "counts":
                return outputs * self.calls
        return outputs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("reads", "operation not permitted when stream is capturing"),
        ("draws", "the network draws random numbers of the host, or the loss does"),
    ],
)
def test_what_cannot_be_replayed_stays_eager_and_says_why(trained, stand_in, monkeypatch, fault, reason):
    target = ("model._target_=runner.training.test_cuda_graph.Linear", f"+model.fault={fault}")
    run = (*target, "data.limit=50", "batching.size=20", "logger=[]", "duration=9steps")
    one = trained(*run, "cuda_graph=auto", name="graph")
    assert sum(stand_in.replays) <= 1
    assert f"note: cuda_graph=auto: steps stay eager: {reason}" in " ".join((one / "log.txt").read_text().split())
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    check_same_run(one, trained(*run, "cuda_graph=auto", name="eager"))


@pytest.mark.slow
def test_what_differs_from_pass_to_pass_is_seen(trained, stand_in):
    target = ("model._target_=runner.training.test_cuda_graph.Linear", "+model.fault=counts")
    folder = trained(*target, "data.limit=50", "batching.size=20", "logger=[]", "duration=4steps", "cuda_graph=auto")
    assert "steps stay eager: the replayed loss is not that of an eager step" in (folder / "log.txt").read_text()


class Moves(torch.optim.SGD):
    """Puts other tensors in the place of weights."""

    def step(self, closure=None):
        """Makes a step, and copies the weights."""
        loss = super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.data = p.data.clone()
        return loss


@pytest.mark.slow
def test_weights_that_are_elsewhere_are_seen(trained, stand_in, monkeypatch):
    run = (*MLP, f"optimizer._target_={__name__}.Moves", "duration=9steps", "cuda_graph=auto")
    one = trained(*run, name="graph")
    assert "steps stay eager: Moves puts other tensors in the place of weights" in (one / "log.txt").read_text()
    monkeypatch.setattr(choice, "GRAPHS_ON", ())
    check_same_run(one, trained(*run, name="eager"))


def test_true_on_a_cpu_is_refused_and_auto_says_that_steps_are_eager():
    right = "give cuda_graph=auto or false"
    assert refusal(*MLP, "cuda_graph=true") == f"cuda_graph=true: CUDA graphs need a GPU; {right}"
    notes = built(*MLP, "cuda_graph=auto").notes
    assert "cuda_graph=auto: steps are eager: CUDA graphs need a GPU" in notes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("probe=[taylor]",), "probes look into single steps"),
        (("regularizer=[checkpoint_distance]",), "a regularizer may change from step to step"),
        (("objective._target_=torch.nn.CrossEntropyLoss",), "a loss of your own may change from step to step"),
    ],
)
def test_what_no_graph_can_hold_is_refused(stand_in, options, reason):
    assert refusal(*MLP[:2], *MLP[3:], *options, "cuda_graph=true").startswith(f"cuda_graph=true: {reason}; give")


@on_gpu
@pytest.mark.parametrize("options", CASES, ids=["kit", "adam"])
def test_a_run_on_a_gpu_is_the_run_of_eager_steps(trained, options):
    run = (*options, "duration=14steps", "device=cuda", "deterministic=true")
    run_with_and_without_graphs(trained, *run)


@on_gpu
@pytest.mark.parametrize("name", UPDATES)
def test_a_step_with_its_update_is_that_of_eager_steps_on_a_gpu(trained, name):
    run = (*UPDATES[name], "duration=14steps", "device=cuda", "deterministic=true")
    assert "stay eager" not in (run_with_and_without_graphs(trained, *run) / "log.txt").read_text()
