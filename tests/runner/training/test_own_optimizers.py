"""Optimizers of the user: no change here is needed for them, and what is wrong with one is told."""

import json
import random

import pytest
import torch

from helpers.cli import refusal
from helpers.runs import rows, same_weights, summary


def test_ones_own_optimizer_and_network_need_no_change_here(trainopt, tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(
        "import torch\n"
        "class Sign(torch.optim.Optimizer):\n"
        "    def __init__(self, params, lr=0.003, power=1.0):\n"
        "        super().__init__(params, {'lr': lr, 'power': power})\n"
        "        self.last_step = {}\n"
        "    def step(self, closure):\n"
        "        with torch.enable_grad():\n"
        "            loss = closure()\n"
        "        with torch.no_grad():\n"
        "            for p in self.param_groups[0]['params']:\n"
        "                p -= self.param_groups[0]['lr'] * p.grad.sign()\n"
        "        self.last_step = {'hvps': 2, 'power': self.param_groups[0]['power']}\n"
        "        return loss\n"
        "def net(num_classes, in_channels, width=4):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * in_channels, num_classes))\n"
    )
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "sign.yaml").write_text("_target_: theirs.Sign\nlr: 0.002\npower: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = trainopt("optimizer._target_=theirs.Sign", "model._target_=theirs.net", "duration=12steps", "run.name=a")
    assert result.code == 0, result.err
    row = rows(tmp_path / "outputs/a", "train")[-1]
    assert row["lr"] == 0.003  # the class's own, not that of SGD's YAML
    assert (row["power"], row["hvps"]) == (1.0, 24)
    environment = json.loads((tmp_path / "outputs/a/environment.json").read_text())
    assert environment["defaults"] == {"optimizer": {"lr": "0.003", "power": "1.0"}}
    assert trainopt("--config-dir", "mine", "optimizer=sign", "duration=2steps", "run.name=b").code == 0
    assert rows(tmp_path / "outputs/b", "train")[-1]["lr"] == 0.002
    wrong = trainopt("--config-dir", "mine", "optimizer=sign", "+optimizer.powr=3", "run.name=c")
    assert wrong.code == 2
    assert "optimizer.powr: unknown key; did you mean optimizer.power?" in wrong.err
    assert not (tmp_path / "outputs/c").exists()


@pytest.mark.slow
def test_an_optimizer_that_needs_the_graph_gets_it(trained, trainopt, tmp_path, monkeypatch):
    (tmp_path / "second.py").write_text(
        "import torch\n"
        "class Graph(torch.optim.SGD):\n"
        "    needs_graph = True\n"
        "    def step(self, closure):\n"
        "        with torch.enable_grad():\n"
        "            loss = closure()\n"
        "            params = self.param_groups[0]['params']\n"
        "            for p, g in zip(params, torch.autograd.grad(loss, params, create_graph=True)):\n"
        "                assert g.requires_grad and p.grad is None\n"
        "                p.grad = g.detach()\n"
        "        super().step()\n"
        "        return loss\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    target = "optimizer._target_=second.Graph"
    trained("model=mlp", target, "optimizer.lr=0.1", "duration=5steps")
    trained("model=mlp", "optimizer.momentum=0", "duration=5steps", name="b")
    assert same_weights(tmp_path / "outputs/a", tmp_path / "outputs/b")
    refused = trainopt("model=mlp", target, "compile=true", "run.name=c")
    assert refused.code == 2
    assert "compile=true: Graph needs the graph" in refused.err


class Idle(torch.optim.SGD):
    """An optimizer whose step forgets the closure."""

    def step(self, closure=None):
        """Does nothing."""


class Blind(torch.optim.SGD):
    """An optimizer whose step takes gradients for given."""

    @torch.no_grad()
    def step(self, closure=None):
        """Goes along the sign of the gradient."""
        for p in self.param_groups[0]["params"]:
            p.sub_(p.grad.sign())


def test_an_optimizer_that_does_not_call_the_closure_fails_at_its_first_step(trainopt, tmp_path, monkeypatch):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, "Idle", Idle, raising=False)
    monkeypatch.setattr(helpers.fixtures, "Blind", Blind, raising=False)
    run = ("model=mlp", "data.limit=40", "duration=3steps", "logger=none", "run.name=idle")
    result = trainopt(*run, "optimizer._target_=helpers.fixtures.Idle")
    assert result.code == 2
    right = "begin step(self, closure) with: with torch.enable_grad(): loss = closure()\n"
    assert "optimizer: Idle.step does not call the closure, which makes gradients" in result.err
    assert result.err.endswith(right)
    assert summary(tmp_path / "outputs/idle")["steps"] == 0
    result = trainopt(*run[:-1], "run.name=blind", "optimizer._target_=helpers.fixtures.Blind")
    assert result.code == 2
    assert result.err.startswith("trainopt: optimizer: Blind.step does not call the closure, which makes gradients")
    assert result.err.endswith(f" ('NoneType' object has no attribute 'sign'); {right}")
    monkeypatch.setattr(Idle, "step", torch.optim.SGD.step)
    assert trainopt(*run, "optimizer._target_=helpers.fixtures.Idle").code == 0
    assert summary(tmp_path / "outputs/idle")["gradients"] == 3


class Lost(torch.nn.Linear):
    """A network that uses what is not there when it is trained."""

    def __init__(self, num_classes):
        super().__init__(64, num_classes)

    def forward(self, images):
        """Returns the logits."""
        return super().forward(images.flatten(1)) + (None.shift if torch.is_grad_enabled() else 0)


def test_an_error_of_the_network_is_not_one_of_the_optimizer(trainopt, monkeypatch):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, "Lost", Lost, raising=False)
    result = trainopt("model._target_=helpers.fixtures.Lost", "data.limit=40", "duration=3steps", "logger=none")
    assert result.code == 1
    assert "the run failed: AttributeError: 'NoneType' object has no attribute 'shift'" in result.err


class Alone(torch.optim.SGD):
    """An optimizer whose step takes no closure."""

    def step(self):
        """Does nothing."""


def test_an_optimizer_whose_step_takes_no_closure_is_refused(trainopt, monkeypatch):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, "Alone", Alone, raising=False)
    result = trainopt("model=mlp", "optimizer._target_=helpers.fixtures.Alone")
    assert result.code == 2
    assert "optimizer: Alone.step takes no closure (too many positional arguments); begin step(self, clos" in result.err


class Unmoved(torch.optim.Optimizer):
    """An optimizer without a step."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})


class Unbound(torch.optim.SGD):
    """An optimizer that is not given the parameters."""

    def __init__(self, lr=0.1):
        super().__init__([], lr)


@pytest.mark.parametrize(
    ("cls", "line"),
    [
        (Unmoved, "optimizer: Unmoved has no method step; begin step(self, closure) with: "),
        (Unbound, "Unbound takes lr first, must take the parameters of the network first"),
    ],
)
def test_an_optimizer_with_another_interface_is_refused(monkeypatch, cls, line):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, cls.__name__, cls, raising=False)
    assert line in refusal("model=mlp", f"optimizer._target_=helpers.fixtures.{cls.__name__}")


class Forgetful(torch.optim.SGD):
    """An optimizer whose momentum and number of steps are no part of its state."""

    def step(self, closure=None):
        """Goes along the sum of all gradients."""
        loss = closure()
        gradients = [p.grad for p in self.param_groups[0]["params"]]
        before = vars(self).get("sums", gradients)
        self.count = vars(self).get("count", 0) + 1
        self.sums = [g + b for g, b in zip(gradients, before, strict=True)]
        for p, total in zip(self.param_groups[0]["params"], self.sums, strict=True):
            p.data.sub_(total, alpha=0.01)
        return loss


class Keeping(torch.optim.SGD):
    """An optimizer of the user's with no other state than that of its class."""


@pytest.mark.slow
def test_values_of_an_optimizer_that_no_checkpoint_holds_are_named(trainopt, monkeypatch):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, "Forgetful", Forgetful, raising=False)
    run = (
        "model=mlp",
        "data.limit=40",
        "batching.size=20",
        "duration=3steps",
        "checkpoint_every=1steps",
        "logger=none",
    )
    out = trainopt(*run, "optimizer._target_=helpers.fixtures.Forgetful").out
    assert " ".join(out.split()).count("note: Forgetful has values in sums, count, which checkpoints do not hold") == 1
    assert "which checkpoints do not hold" not in trainopt(*run, "optimizer._target_=torch.optim.LBFGS").out
    monkeypatch.setattr(helpers.fixtures, "Keeping", Keeping, raising=False)
    out = trainopt(*run, "optimizer._target_=helpers.fixtures.Keeping", "schedule=cosine").out
    assert "which checkpoints do not hold" not in out  # schedulers of torch set an attribute


class Holder(torch.optim.SGD):
    """An optimizer with an object in its state."""

    def step(self, closure=None):
        """Makes a step of SGD."""
        for p in self.param_groups[0]["params"]:
            self.state[p]["draws"] = random.Random(0)
        return super().step(closure)


def test_a_state_that_no_checkpoint_can_hold_is_refused_after_one_step(trainopt, tmp_path, monkeypatch):
    import helpers.fixtures

    monkeypatch.setattr(helpers.fixtures, "Holder", Holder, raising=False)
    run = ("model=mlp", "data.limit=40", "batching.size=20", "duration=3steps", "checkpoint_every=3steps", "run.name=a")
    result = trainopt(*run, "optimizer._target_=helpers.fixtures.Holder", "optimizer.lr=0.1")
    assert result.code == 1
    assert "the state_dict of Holder must hold tensors and plain values (random.Random)" in result.err
    assert summary(tmp_path / "outputs/a")["steps"] == 0
