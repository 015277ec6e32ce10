"""Plug-ins against their contracts: what is missing, what is misspelt, and what is filled in."""

import inspect
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from trainopt.data import Batching, Features, InMemory, Source
from trainopt.optimizers import Optimizer, Regularizer, Schedule
from trainopt.runner.config.contracts import complete, members
from trainopt.runner.records.logger import Logger
from trainopt.runner.state.run import Probe
from trainopt.runner.system.errors import UserError

STATE = ("state_dict", "load_state_dict")
# by contract: what a plug-in must have, and optional members with a name that is easily taken for them
REQUIRED = {
    Optimizer: ("param_groups", "step", *STATE),
    Schedule: ("step", *STATE),
    Regularizer: ("__call__",),
    Batching: (),
    Probe: ("every", "before_step", "after_step"),
    Logger: ("row",),
}
MISSPELT = [
    (Optimizer, "needs_graph", "need_graph"),
    (Optimizer, "last_step", "last_steps"),
    (Schedule, "cycles", "cycle"),
    (Schedule, "levels", "level"),
    (Schedule, "is_range_test", "is_rangetest"),
    (Regularizer, "after_step", "after_steps"),
    (Regularizer, "load_state_dict", "load_state_dic"),
    (Regularizer, "covers", "covers_"),
    (Batching, "spans_from", "span_from"),
    (Batching, "repeats", "repeat"),
    (Batching, "needs_probe", "need_probe"),
    (Probe, "each_epoch", "each_epochs"),
    (Probe, "state_dict", "state_dic"),
    (Logger, "flush", "flushes"),
]


def plugin(contract, *names, **values):
    """An object of a class that has what the contract asks for, and more: methods by name, attributes by value."""
    annotated = contract.__annotations__
    given = {name: "5steps" if name in annotated else lambda self, *_: None for name in (*REQUIRED[contract], *names)}
    return type("Theirs", (), {**given, **values})()


@pytest.mark.parametrize(("contract", "name"), [(c, name) for c, names in REQUIRED.items() for name in names])
def test_a_missing_member_is_named(contract, name):
    theirs = plugin(contract)
    delattr(type(theirs), name)
    what = "attribute" if name in contract.__annotations__ else "method"
    with pytest.raises(UserError, match=f"^key: Theirs is no {contract.__name__.lower()}; it has no {what} {name}$"):
        complete(theirs, contract, "key")


@pytest.mark.parametrize(("contract", "right", "wrong"), MISSPELT)
@pytest.mark.parametrize("derived", [False, True], ids=["of its own", "derived from the contract"])
def test_a_misspelt_member_is_named(contract, right, wrong, derived):
    is_method = right not in contract.__annotations__
    theirs = plugin(contract, wrong) if is_method else plugin(contract, **{wrong: True})
    if derived:
        theirs = type("Theirs", (type(theirs), contract), {})()
    what = "method" if is_method else "attribute"
    with pytest.raises(UserError, match=f"^key: Theirs has a misspelt {what} {wrong}; did you mean {right}\\?$"):
        complete(theirs, contract, "key")
    other = plugin(contract, **{wrong: True}) if is_method else plugin(contract, wrong)
    complete(other, contract, "key")  # what is no method is no misspelt method, and the other way round
    complete(plugin(contract, right, wrong) if is_method else plugin(contract, **{wrong: 1, right: 1}), contract, "key")


@pytest.mark.parametrize("contract", REQUIRED)
def test_what_is_left_out_has_the_default(contract):
    theirs = plugin(contract)
    theirs.mine = 5
    cls, attributes = type(theirs), dict(vars(theirs))
    done = complete(theirs, contract, "key")
    assert done is theirs
    assert isinstance(done, cls)
    assert type(done).__name__ == "Theirs"
    assert vars(done) == attributes  # what torch's schedules save
    assert not set(vars(cls)) & (set(members(contract)[1]) - set(REQUIRED[contract]))  # nothing in their class
    for name, default in members(contract)[1].items():
        if name not in REQUIRED[contract]:
            value = getattr(done, name)
            assert value.__func__ is default if callable(default) else value == default
    assert complete(done, contract, "key") is done


@pytest.mark.parametrize("contract", [*REQUIRED, Source])
def test_every_member_of_a_contract_is_described(contract):
    required, optional = members(contract)
    described = inspect.getdoc(contract).partition("Attributes:")[2]
    for name in (*required, *optional):
        member = inspect.getattr_static(contract, name, None)
        assert getattr(member, "__doc__", None) if name not in contract.__annotations__ else f"{name}:" in described


def test_one_of_two_members_is_enough_where_one_follows_from_the_other():
    spans = plugin(Batching, spans=lambda self, epoch_size, offset: iter([(offset, epoch_size)]))
    done = complete(spans, Batching, "batching", one_of=("spans", "spans_from"))
    assert list(done.spans_from(SimpleNamespace(offset=3), 7)) == [(3, 7)]
    complete(plugin(Batching, "spans_from"), Batching, "batching", one_of=("spans", "spans_from"))
    with pytest.raises(UserError, match="batching: Theirs is no batching; it has no method spans"):
        complete(plugin(Batching), Batching, "batching", one_of=("spans", "spans_from"))


def test_a_value_that_is_set_at_the_first_step_is_seen():
    class Late(SGD):
        def step(self, closure=None):
            super().step(closure)
            self.last_step = {"hvps": 2}

    optimizer = complete(Late([torch.ones(1, requires_grad=True)]), Optimizer, "optimizer")
    assert not optimizer.last_step
    optimizer.step()
    assert optimizer.last_step == {"hvps": 2}


def test_members_of_instances_and_of_what_an_object_stands_for_are_its_own():
    class Around:
        def __init__(self, inner):
            self.inner, self.sets_lr = inner, True

        def __getattr__(self, name):
            return getattr(self.inner, name)

    inner = complete(SGD([torch.ones(1, requires_grad=True)]), Optimizer, "optimizer")
    inner.needs_graph = True
    optimizer = complete(Around(inner), Optimizer, "optimizer")
    assert (optimizer.sets_lr, optimizer.needs_graph, optimizer.needs_loss_function) == (True, True, False)


def test_a_property_without_a_value_yet_is_a_member():
    class Waiting:
        every = "5steps"

        @property
        def records_step(self):
            return self.later  # which the first call sets

        def before_step(self, run, batch):
            self.later = True

        after_step = before_step

    probe = complete(Waiting(), Probe, "probe.mine")
    probe.before_step(None, None)
    assert probe.records_step


@pytest.mark.parametrize("penalty", [lambda params: params, partial(lambda c, params: params, 1)])
def test_a_function_is_a_regularizer(penalty):
    regularizer = complete(penalty, Regularizer, "regularizer.mine")
    assert regularizer(3) == 3
    assert regularizer.covers(None, "weight")
    assert regularizer.report([], None) == regularizer.state_dict() == {}


def test_an_object_that_takes_no_members_is_refused():
    class Slots:
        __slots__ = ()

        def row(self, row):
            pass

    with pytest.raises(UserError, match="^logger: Slots takes no further attributes; let it derive from Logger$"):
        complete(Slots(), Logger, "logger")


def test_torchs_optimizers_and_schedules_save_what_they_did():
    optimizer = SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    before = optimizer.state_dict()
    assert complete(optimizer, Optimizer, "optimizer").state_dict() == before
    for make in (partial(CosineAnnealingLR, T_max=5), partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step))):
        schedule = make(optimizer)
        before = schedule.state_dict()
        assert complete(schedule, Schedule, "schedule").state_dict() == before
        assert schedule.cycles() is schedule.levels() is None


@pytest.mark.parametrize(
    ("module", "base", "contract"),
    [(torch.optim, torch.optim.Optimizer, Optimizer), (torch.optim.lr_scheduler, LRScheduler, Schedule)],
)
def test_no_class_of_torch_is_taken_for_misspelt(module, base, contract):
    assert members(contract)[0]
    classes = [cls for cls in vars(module).values() if isinstance(cls, type) and issubclass(cls, base)]
    assert len(classes) > 10
    for cls in classes:
        bare = cls.__new__(cls)
        bare.param_groups = []
        complete(bare, contract, "key")


def test_the_sources_have_what_the_contract_says():
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.arange(3)
    for source in (InMemory(images, labels, [0.0], [1.0]), Features(torch.ones(3, 2), torch.arange(3))):
        assert complete(source, Source, "data") is source


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("optimizer", "optimizer: Theirs has a misspelt attribute need_graph; did you mean needs_graph?"),
        ("schedule", "schedule: Theirs is no schedule; it has no method load_state_dict"),
        ("batching", "batching: Theirs is no batching; it has no method spans"),
        (
            "probe.mine",
            "probe.mine: Theirs is no probe; it has no attribute every and no method before_step or after_step",
        ),
        ("regularizer.mine", "regularizer.mine: Theirs is no regularizer; it has no method __call__"),
        ("logger.mine", "logger.mine: Theirs is no logger; it has no method row"),
    ],
)
def test_a_run_is_refused_in_one_line(trainopt, tmp_path, monkeypatch, command, message):
    module = f"incomplete_{command.replace('.', '_')}"
    (tmp_path / f"{module}.py").write_text(
        "class Theirs:\n"
        "    need_graph = True\n"
        "    def __init__(self, *_):\n"
        "        self.param_groups = []\n"
        "    def state_dict(self): return {}\n"
        "    def step(self, *_): pass\n" + ("    load_state_dict = step\n" if command == "optimizer" else "")
    )
    monkeypatch.syspath_prepend(tmp_path)
    plus = "+" if "." in command else ""
    result = trainopt("model=mlp", "data.limit=50", f"{plus}{command}._target_={module}.Theirs", "duration=1steps")
    assert (result.code, result.err) == (2, f"trainopt: {message}\n")
