"""Parameter groups: against plain PyTorch loops bit for bit, against timm's own layer decay, and refusals."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.cli import built, refusal
from helpers.runs import weights
from trainopt.data import Position, batches
from trainopt.optimizers import parameter_groups

RUN = ("model=resnet8", "data.limit=60", "batching.size=20", "duration=4steps", "logger=none", "optimizer=adamw")
DECAY = "optimizer.weight_decay=0.5"


def trained_plainly(*typed, groups):
    """The weights after four steps of a loop as people write it."""
    run = built(*RUN, DECAY, *typed)
    optimizer = torch.optim.AdamW(groups(run.network), lr=0.001, weight_decay=0.5)
    run.network.train()
    stream = batches(run.training_set, run.batching, run.seed, Position())
    for _ in range(4):
        inputs, targets, _, _ = next(stream)
        optimizer.zero_grad()
        cross_entropy(run.network(inputs), targets).backward()
        optimizer.step()
    return run.network.state_dict()


def no_decay_on_one_dimension(network):
    decayed = [p for p in network.parameters() if p.ndim > 1]
    return [{"params": decayed}, {"params": [p for p in network.parameters() if p.ndim <= 1], "weight_decay": 0.0}]


def head_by_itself(network):
    named = dict(network.named_parameters())
    head = [p for name, p in named.items() if name.startswith("linear")]
    rest = [p for name, p in named.items() if not name.startswith("linear")]
    return [{"params": rest}, {"params": head, "lr": 0.1, "weight_decay": 0.0}]


def layers_with_their_rates(network):
    """Each convolution with its batch norm, and the classifier, has half the learning rate of the next layer."""
    layers = [layer for layer in network.modules() if list(layer.parameters(recurse=False))]
    count = sum(not isinstance(layer, nn.BatchNorm2d) for layer in layers)
    groups, number = [], 0
    for layer in layers:
        number += not isinstance(layer, nn.BatchNorm2d)
        groups.append({"params": list(layer.parameters()), "lr": 0.001 * 0.5 ** (count - number)})
    return groups


@pytest.mark.parametrize(
    ("option", "groups"),
    [
        ("parameter_groups.no_decay=[bias,norm]", no_decay_on_one_dimension),
        ("parameter_groups.rules=[{match: '^linear', lr: 0.1, weight_decay: 0}]", head_by_itself),
        ("parameter_groups.layer_decay=0.5", layers_with_their_rates),
    ],
)
def test_a_run_in_groups_is_a_plain_loop_in_groups(trained, option, groups):
    mine = weights(trained(*RUN, DECAY, option))
    expected = trained_plainly(groups=groups)
    assert all(torch.equal(mine[name], value) for name, value in expected.items())
    one_group = trained_plainly(groups=lambda network: network.parameters())
    assert not all(torch.equal(mine[name], value) for name, value in one_group.items())


@pytest.mark.parametrize("layer", [lambda: nn.MultiheadAttention(4, 2), lambda: nn.LSTM(4, 4, 2, bidirectional=True)])
def test_biases_of_attention_and_of_recurrent_layers_have_no_decay_as_in_timm(layer):
    network = nn.ModuleList([layer(), nn.LayerNorm(4), nn.Linear(4, 2)])
    theirs = param_groups_weight_decay(network, 0.5)[0]
    groups = parameter_groups(network, no_decay=["bias", "norm"])
    mine = {id(p) for group in groups if group.get("weight_decay") == 0 for p in group["params"]}
    assert theirs["weight_decay"] == 0
    assert mine == {id(p) for p in theirs["params"]}
    assert len(mine) >= 5


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_layer_decay_of_timms_networks_is_timms(name):
    network = timm.create_model(name)
    mine = {id(p): group["lr"] for group in parameter_groups(network, lr=0.5, layer_decay=0.7) for p in group["params"]}
    for group in param_groups_layer_decay(network, layer_decay=0.7):
        for p in group["params"]:
            assert mine[id(p)] == pytest.approx(0.5 * group["lr_scale"], rel=1e-12)
    assert len(mine) == len(list(network.parameters()))


def test_layer_decay_of_other_networks_follows_their_weights():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2))
    groups = parameter_groups(network, lr=1.0, layer_decay=0.5, no_decay=["norm"], rules=[{"match": "^4", "lr": 8.0}])
    named = {id(p): name for name, p in network.named_parameters()}
    assert [([named[id(p)] for p in g["params"]], {k: v for k, v in g.items() if k != "params"}) for g in groups] == [
        (["0.weight", "0.bias"], {"lr": 0.25}),
        (["1.weight", "1.bias"], {"weight_decay": 0.0, "lr": 0.25}),
        (["3.weight", "3.bias"], {"lr": 0.5}),
        (["4.weight", "4.bias"], {"lr": 8.0}),
    ]


def test_frozen_parameters_are_in_no_group():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].requires_grad_(False)
    (group,) = parameter_groups(network, lr=1.0, no_decay=["norm"])
    assert [p.shape for p in group["params"]] == [(2, 2), (2,)]


def test_the_first_rule_that_matches_holds():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    rules = [{"match": "0.bias", "lr": 1.0}, {"match": "bias", "lr": 2.0}]
    assert [group.get("lr") for group in parameter_groups(network, rules=rules)] == [None, 1.0, 2.0]


@pytest.mark.parametrize("optimizer", ["ehnewton", "adaptive_nesterov"])
def test_optimizers_of_ours_decay_by_group(optimizer):
    run = built(*RUN, f"optimizer={optimizer}", "optimizer.weight_decay=0.5", "parameter_groups.no_decay=[bias,norm]")
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {0.0, 0.5}


def test_schedules_scale_every_group():
    run = built(*RUN, "schedule=cosine", "parameter_groups.layer_decay=0.5")
    lrs = [group["lr"] for group in run.optimizer.param_groups]
    assert lrs == sorted(lrs)
    assert lrs[-1] == 0.001
    run.progress.step = 2
    run.optimizer.step()
    run.schedule.step()
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([lr / 2 for lr in lrs])


def test_the_start_says_how_many_parameters_a_group_has():
    run = built(*RUN, "parameter_groups.no_decay=[norm]", "parameter_groups.rules=[{match: '^linear', lr: 0.1}]")
    assert [note for note in run.notes if "parameters with" in note] == [
        "73,872 parameters with the keys of optimizer, and none of their own",
        "608 parameters with weight_decay=0.0",
        "650 parameters with lr=0.1",
    ]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no_decay=[weights]", "parameter_groups.no_decay=[weights]: must be a list of any of bias, norm"),
        ("layer_decay=0", "parameter_groups.layer_decay=0: must be a number in (0, 1]"),
        ("rules=[{match: '^nothing', lr: 1}]", "parameter_groups.rules: ^nothing matches no parameter"),
        ("rules=[{match: linear}]", "must have `match` and hyperparameters"),
        ("rules=[{lr: 1}]", "must have `match` and hyperparameters"),
        ("rules=[{match: '(', lr: 1}]", "parameter_groups.rules: ( is no regular expression"),
        (
            "rules=[{match: linear, momentum: 1}]",
            "parameter_groups: AdamW has no momentum in its parameter groups",
        ),
        (
            "rules=[{match: linear, betas: 1}] optimizer=ehnewton",
            "betas=1: unknown option of a parameter group; there are lr, damping, ",
        ),
        ("layer_decay=0.5 optimizer=adaptive_nesterov", "layer_decay=0.5: the optimizer has no lr"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(command, message):
    option, *more = command.split(" optimizer")
    assert message in refusal(
        "model=resnet8", "optimizer=adamw", f"parameter_groups.{option}", *[f"optimizer{m}" for m in more]
    )
