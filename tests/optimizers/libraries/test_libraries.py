"""Optimizers of other libraries: equal to plain loops, refused with a reason, and what their trial finds."""

import random
import sys
from itertools import islice

import numpy as np
import pytest
import pytorch_optimizer as library
import timm.optim
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.cli import built, refusal
from trainopt.optimizers import pytorch_optimizer, timm_optimizer
from trainopt.optimizers.libraries import adapted
from trainopt.optimizers.libraries.adapted import FirstCall, adapt
from trainopt.optimizers.libraries.trial import tried
from trainopt.runner.training.closure import TrainingClosure

STEPS = 4


class Network(nn.Module):
    """A convolution, batch norm and two linear layers, the last called as timm and pytorch_optimizer have it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(2, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.hidden = nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, images):
        features = self.norm(self.convolution(images)).relu().flatten(1)
        return self.head(self.hidden(features).relu())

    def get_classifier(self):
        return self.head


def network():
    torch.manual_seed(0)
    return Network()


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 2, 4, 4, generator=generator), torch.randint(0, 5, (16,), generator=generator)


def trajectory(model, optimizer, before_step=True, create_graph=False):
    """The weights after some steps of a plain PyTorch loop; gradients are made before the step, or by it."""
    torch.manual_seed(1)
    for step in range(STEPS):
        images, targets = batch(step)

        def closure(images=images, targets=targets):
            for p in model.parameters():
                p.grad = None
            loss = cross_entropy(model(images), targets)
            if not getattr(optimizer, "needs_graph", False):
                loss.backward(create_graph=create_graph)
            return loss

        if before_step:
            loss = closure()
            optimizer.step(lambda loss=loss: loss.detach())  # as AliG asks for it
        else:
            optimizer.step(closure)
        for p in model.parameters():
            p.grad = None
    return [p.detach() for p in model.parameters()]


def ours(build, *args, **kwargs):
    model = network()
    return trajectory(model, build(list(model.parameters()), model, *args, **kwargs), before_step=False)


def equal(some, others):
    return all(map(torch.equal, some, others)) and not torch.equal(some[0], next(network().parameters()))


@pytest.mark.parametrize("name", ["adopt", "lookahead_adam"])
def test_an_optimizer_of_timm_equals_a_loop_with_its_factory(name):
    model = network()
    optimizer = timm.optim.create_optimizer_v2(list(model.parameters()), name, lr=0.01, weight_decay=0.1)
    assert equal(ours(timm_optimizer, name, lr=0.01, weight_decay=0.1), trajectory(model, optimizer))


def test_muon_of_timm_equals_a_loop_with_its_factory_on_the_network():
    model = network()
    optimizer = timm.optim.create_optimizer_v2(
        model, "muon", lr=0.01, weight_decay=0.0, fallback_list=["head.*", "norm.*", "*.bias"]
    )
    assert equal(ours(timm_optimizer, "muon", lr=0.01), trajectory(model, optimizer))


@pytest.mark.parametrize("name", ["alig"])
def test_an_optimizer_of_pytorch_optimizer_equals_a_loop_with_its_class(name):
    model = network()
    optimizer = library.load_optimizer(name)(list(model.parameters()))
    assert equal(ours(pytorch_optimizer, name), trajectory(model, optimizer))


@pytest.mark.filterwarnings("ignore:highly recommend:UserWarning")
@pytest.mark.parametrize("name", ["muon"])
def test_an_optimizer_of_pytorch_optimizer_equals_a_loop_with_its_factory_on_the_network(name):
    model = network()
    optimizer = library.create_optimizer(model, name, lr=0.01, weight_decay=0.0)
    assert equal(ours(pytorch_optimizer, name, lr=0.01, weight_decay=0.0), trajectory(model, optimizer))


def test_an_optimizer_around_another_equals_a_loop_with_both():
    model = network()
    optimizer = library.Lookahead(library.AdaBelief(list(model.parameters()), lr=0.01, rectify=True), k=2)
    expected = trajectory(model, optimizer)
    build = {"lr": 0.01, "rectify": True, "k": 2, "base_optimizer": "adabelief"}
    assert equal(ours(pytorch_optimizer, "lookahead", **build), expected)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_gradients_that_are_differentiated_are_those_of_a_backward_pass_with_a_graph():
    for build, name, cls in (
        (timm_optimizer, "adahessian", timm.optim.Adahessian),
        (pytorch_optimizer, "sophiah", library.SophiaH),
    ):
        model = network()
        expected = trajectory(model, cls(list(model.parameters()), lr=0.01), create_graph=True)
        assert equal(ours(build, name, lr=0.01), expected)


@pytest.mark.slow
def test_products_and_gradients_are_counted():
    for name, gradients, hvps in (
        ("timm optimizer.name=adahessian +optimizer.n_samples=3", 1, 3),
        ("pytorch_optimizer optimizer.name=sam optimizer.base_optimizer=sgd optimizer.lr=0.1", 2, None),
        ("pytorch_optimizer optimizer.name=lbfgs +optimizer.max_iter=3", 3, None),
    ):
        run = built("model=mlp", f"optimizer={name.split()[0]}", *name.split()[1:])
        closure = TrainingClosure(run)
        closure.batch = next(run.batches())
        run.optimizer.step(closure)
        assert run.progress.gradients == gradients
        assert run.optimizer.last_step.get("hvps") == hvps
        assert not any(p.grad.requires_grad for p in run.network.parameters())


class Calls:
    """A closure that counts its calls."""

    def __init__(self, w):
        self.w, self.count = w, 0

    def __call__(self):
        self.count += 1
        self.w.grad = None
        loss = self.w.square().sum()
        if torch.is_grad_enabled():
            loss.backward()
        return loss


def test_the_first_call_is_made_once_more_where_weights_or_gradients_changed():
    w = nn.Parameter(torch.ones(2))

    def calls(before):
        closure = Calls(w)
        first = FirstCall(closure, [w])
        before()
        first()
        return closure.count

    def move():
        with torch.no_grad():
            w.add_(1)

    assert calls(lambda: None) == 1
    assert calls(move) == 2
    assert calls(lambda: setattr(w, "grad", None)) == 2


class Broken(torch.optim.SGD):
    """Gradient descent that is wrong in one way."""

    def __init__(self, params, wrong, lr=0.1):
        super().__init__(params, lr)
        self.wrong, self.count = wrong, 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                if self.wrong == "hidden state" and self.count == 7:
                    self.state[p]["late"] = torch.ones(1)
                    p.data.zero_()
                if self.wrong == "object":
                    self.state[p]["object"] = random.Random()
        if self.wrong == "lr":
            for group in self.param_groups:
                group["lr"] = 0.1
        if self.wrong == "fails":
            raise RuntimeError("no\nluck")
        return None if self.wrong == "nothing" else super().step(closure)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ("hidden state", "it cannot be resumed: its state_dict leaves out a part of its state"),
        ("object", "checkpoints cannot hold its state (random.Random)"),
        ("nothing", "its steps change no weight"),
        ("fails", "no luck"),
    ],
)
def test_a_trial_says_what_is_wrong(wrong, line):
    with pytest.raises(ValueError, match=r".") as error:
        tried(lambda params: Broken(params, wrong), [{"params": list(network().parameters())}])
    assert str(error.value) == line


def test_a_trial_finds_a_learning_rate_without_effect_and_leaves_the_numbers_alone():
    groups = [{"params": list(network().parameters())}]
    before = [p.clone() for p in groups[0]["params"]]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    drawn = (torch.rand(1), random.random(), np.random.rand())
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    assert tried(lambda params: Broken(params, "lr"), groups).sets_lr
    assert not tried(lambda params: Broken(params, None), groups).sets_lr
    assert drawn == (torch.rand(1), random.random(), np.random.rand())
    assert all(map(torch.equal, before, groups[0]["params"]))


def test_own_generators_are_a_part_of_the_state(monkeypatch):
    """AdaHessian of timm draws from one, which its own state_dict leaves out."""
    model = network()
    timm_optimizer(list(model.parameters()), model, "adahessian")
    monkeypatch.setattr(adapted, "generator_states", lambda optimizer: {})
    with pytest.raises(ValueError, match="name=adahessian: it cannot be resumed"):
        timm_optimizer(list(model.parameters()), model, "adahessian")


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, timm.optim.Lookahead])
def test_hooks_of_an_adapted_optimizer_are_called_once_also_after_loading(wrap):
    """early_stopping.min_step_norm measures steps by hooks; those of Lookahead are none of torch's doing."""
    w = nn.Parameter(torch.ones(2))
    optimizer = adapt(wrap(torch.optim.SGD([w], lr=0.1)))
    for _ in range(2):
        calls = []
        hook = optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        optimizer.step(Calls(w))
        assert calls == [1]
        hook.remove()
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("timm", "optimizer.name is missing: give it as optimizer.name=VALUE (any name of timm.optim"),
        ("timm optimizer.name=adop", "optimizer.name=adop: timm has no such optimizer; did you mean adopt,"),
        (
            "timm optimizer.name=adopt +optimizer.beta=[0.9,0.99]",
            "optimizer.beta=[0.9, 0.99]: Adopt has no such argument; did you mean betas?",
        ),
        ("timm optimizer.name=adopt optimizer.lr=-1", "optimizer.name=adopt: Invalid learning rate: -1"),
        ("timm optimizer.name=adopt optimizer.lr=x", "optimizer.lr=x: must be a number or null"),
        (
            "timm optimizer.name=adopt parameter_groups.layer_decay=0.5",
            "parameter_groups.layer_decay: scales optimizer.lr, which is null; give optimizer.lr=VALUE",
        ),
        ("timm optimizer.name=sgdp", "optimizer.name=sgdp: needs lr; give it as optimizer.lr=VALUE"),
        ("muon model.hidden=[]", "optimizer.name=muon: Muon is for hidden weights, and the network has none"),
        ("soap optimizer.eps=-1", "optimizer.name=soap: eps must be non-negative"),
        (
            "soap +optimizer.precondition_frequenzy=1",
            "optimizer.precondition_frequenzy=1: SOAP has no such argument; did you mean precondition_frequency?",
        ),
        ("pytorch_optimizer optimizer.name=sam", "optimizer.base_optimizer=null: is missing; give it as"),
        (
            "pytorch_optimizer optimizer.name=soap optimizer.base_optimizer=sgd",
            "optimizer.base_optimizer=sgd: SOAP is around no other; leave it out",
        ),
        (
            "pytorch_optimizer optimizer.name=ranger21",
            "optimizer.name=ranger21: needs num_iterations; give it as +optimizer.num_iterations=VALUE",
        ),
        (
            "pytorch_optimizer optimizer.name=adammini parameter_groups.no_decay=[bias]",
            "optimizer.name=adammini: takes the whole network, and no parameter_groups; leave these out",
        ),
    ],
)
def test_it_is_refused_in_one_line(typed, line):
    first, *others = typed.split()
    assert refusal("model=mlp", f"optimizer={first}", *others).startswith(line)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("named", "target"),
    [
        ("optimizer=pytorch_optimizer optimizer.name=alig", "pytorch_optimizer.AliG"),
        ("optimizer=timm optimizer.name=adahessian", "timm.optim.Adahessian"),
    ],
)
def test_a_class_of_a_library_is_what_it_is_by_name(named, target):
    ends = []
    for typed in (named.split(), [f"optimizer._target_={target}"]):
        run = built("model=mlp", "model.hidden=[4]", "data.limit=40", "batching.size=20", *typed)
        closure = TrainingClosure(run)
        for closure.batch in islice(run.batches(), 3):
            run.optimizer.step(closure)
        ends.append(([p.detach() for p in run.network.parameters()], run.progress.gradients, run.optimizer.last_step))
    (by_name, *counts), (by_class, *others) = ends
    assert all(map(torch.equal, by_name, by_class))
    assert counts == others
    assert counts[0] == 3


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("pytorch_optimizer.AdaShift", "optimizer: checkpoints cannot hold its state (collections.deque)"),
        ("pytorch_optimizer.LOMO", "optimizer: 'list' object has no attribute 'parameters'"),
    ],
)
def test_a_class_of_a_library_is_refused_as_by_name(target, line):
    assert refusal("model=mlp", f"optimizer._target_={target}") == line


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    line = "optimizer: pytorch_optimizer is not installed; pip install 'trainopt[optimizers]'"
    assert refusal("model=mlp", "optimizer=soap") == line


def test_groups_of_parameters_are_split_for_muon():
    run = built("model=mlp", "optimizer=muon", "parameter_groups.no_decay=[bias]", "optimizer.weight_decay=0.1")
    groups = run.optimizer.param_groups
    assert [(len(g["params"]), g["weight_decay"], g.get("use_fallback", False)) for g in groups] == [
        (2, 0.1, False),
        (1, 0.1, True),
        (3, 0.0, True),
    ]
