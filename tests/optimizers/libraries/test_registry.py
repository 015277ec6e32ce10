"""Every name of timm's factory and of pytorch_optimizer: it trains as the library's own class does in a plain loop, and
goes on bit for bit from a checkpoint of ours, or it is refused before the run with the reason."""

import copy
import io
import json
import warnings
from itertools import islice

import pytest
import pytorch_optimizer
import timm.optim
import torch

from helpers.cli import prepared
from helpers.runs import equal
from trainopt.optimizers.libraries import pytorch_optimizer as pytorch_module
from trainopt.optimizers.libraries import timm_optimizer as timm_module
from trainopt.optimizers.libraries.adapted import adapt
from trainopt.optimizers.libraries.pytorch_optimizer import UNUSABLE, WRAPPERS
from trainopt.runner.state.checkpoint import load_run_state, run_state
from trainopt.runner.system.errors import UserError
from trainopt.runner.training.build import build, seed_everything
from trainopt.runner.training.closure import TrainingClosure

pytestmark = pytest.mark.slow

NAMES = {
    "timm": timm.optim.list_optimizers(),
    "pytorch_optimizer": [*pytorch_optimizer.get_supported_optimizers(), *map(str.lower, WRAPPERS)],
}
PARTS = 6  # of each library's names, so that workers share them
CASES = [(library, part) for library in NAMES for part in range(PARTS)]
STEPS, INTERRUPTED = 12, 4

# What is typed beside the name: arguments without a default, and learning rates with which nothing diverges.
NEEDS = {
    **{name: {"lr": 0.1} for name in ("timm sgdp", "timm csgdp")},
    "pytorch_optimizer bsam": {"num_data": 64},
    "pytorch_optimizer ranger21": {"num_iterations": STEPS},
    "pytorch_optimizer lbfgs": {"lr": 0.1, "max_iter": 4},
    **{f"pytorch_optimizer {wrapper.lower()}": {"lr": 0.1, "base_optimizer": "sgd"} for wrapper in WRAPPERS},
    "pytorch_optimizer trac": {"lr": 0.1, "base_optimizer": "sgd", "s_prev": 1e-3},  # else 12 steps change hardly a bit
}
CUDA = "CUDA required for"
NO_STEP = "it raises NotImplementedError"  # they update within the backward pass, by a method of their own
OBJECTS = "checkpoints cannot hold its state"
REFUSED = {
    **{f"timm {name}": CUDA for name in NAMES["timm"] if name.startswith(("bnb", "fused"))},
    **{f"pytorch_optimizer {name}": "Default process group has not been" for name in ("demo", "distributedmuon")},
    **{f"pytorch_optimizer {name}": NO_STEP for name in ("lomo", "adalomo")},
    **{
        f"pytorch_optimizer {name}": OBJECTS for name in ("adashift", "conda", "scalableshampoo", "scion", "scionlight")
    },
    "pytorch_optimizer spectralsphere": "only supports 2D parameters",
}

# How a plain loop calls `step` where it needs a closure.
PERTURBED = ("sam", "looksam", "friendlysam", "bsam", "wsam")  # gradients first, and again by the closure
WITH_GRAPH = ("adahessian", "sophiah")


def config_of(library, name):
    needs = NEEDS.get(f"{library} {name}", {})
    config = prepared(
        *("model=mlp", "model.hidden=[8,6]", "data.limit=64", "batching.size=16", "logger=none", "device=cpu"),
        *(f"optimizer={library}", f"optimizer.name={name}"),
    )[0]
    config.optimizer.update(needs)
    return config


def make_steps(run, count):
    """Makes so many steps of a run, as the training loop does."""
    closure = TrainingClosure(run)
    run.network.train()
    for batch in islice(run.batches(), count):
        closure.batch = batch
        run.update.step(closure)
        run.progress.advance(batch)


def restored(state):
    """A state, written to a checkpoint and read as `trainopt resume` reads it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def library_optimizer(library, name, network):
    """The optimizer that the library itself makes, and Muon's with its groups by hand."""
    needs = dict(NEEDS.get(f"{library} {name}", {}))
    params = list(network.parameters())
    hidden = [p for p in params if p.ndim == 2][:-1]
    others = [p for p in params if all(p is not h for h in hidden)]
    if library == "timm":
        if "muon" in name:
            params = [{"params": hidden}, {"params": others, "use_fallback": True}]
        return timm.optim.create_optimizer_v2(params, name, **needs)
    if (base := needs.pop("base_optimizer", None)) is not None:
        wrapper = getattr(pytorch_optimizer, {w.lower(): w for w in WRAPPERS}[name])
        base_class = pytorch_optimizer.load_optimizer(base)
        if name == "wsam":
            return wrapper(network, params, base_class, **needs)
        if "sam" in name:
            return wrapper(params, base_class, **needs)
        of_wrapper = {key: needs.pop(key) for key in ("s_prev",) if key in needs}
        return wrapper(base_class(params, **needs), **of_wrapper)
    cls = pytorch_optimizer.load_optimizer(name)
    if "muon" in cls.__module__:
        return cls([{"params": hidden, "use_muon": True}, {"params": others, "use_muon": False}], **needs)
    return cls(network if name == "adammini" else params, **needs)


def plain_loop(library, name, network, batches):
    """The weights after a loop as the library's documentation writes it."""
    optimizer = library_optimizer(library, name, network)
    for inputs, targets, *_ in batches:

        def closure(inputs=inputs, targets=targets):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(inputs), targets)
            loss.backward(create_graph=name in WITH_GRAPH)
            return loss

        if name == "lbfgs":
            optimizer.step(closure)
            continue
        loss = closure().detach()
        if name in PERTURBED:
            optimizer.step(closure)
        elif name == "alig":
            optimizer.step(lambda loss=loss: loss)
        else:
            optimizer.step()
    return network.state_dict()


def fault(library, name, monkeypatch):
    """What is wrong with a name; None: nothing is."""
    config = config_of(library, name)
    reason = REFUSED.get(f"{library} {name}")
    try:
        run = build(config)
    except UserError as error:
        line = str(error)
        right = reason is not None and reason in line and "\n" not in line and f"optimizer.name={name}: " in line
        return None if right else f"is refused: {line}"
    if reason is not None:
        return f"is not refused: {reason}"
    network, batches = copy.deepcopy(run.network), list(islice(run.batches(), STEPS))
    seed_everything(1)
    make_steps(run, INTERRUPTED)
    state = restored(run_state(run))
    make_steps(run, STEPS - INTERRUPTED)
    if not all(p.isfinite().all() for p in run.network.parameters()):
        return "diverges"
    json.dumps([run.update.lr, dict(run.optimizer.last_step)])  # what a row has
    traits = run.optimizer.needs_graph, run.optimizer.sets_lr
    for module in (timm_module, pytorch_module):  # one trial is enough
        monkeypatch.setattr(module, "tried", lambda create, subject: adapt(create(subject), *traits))
    resumed = build(config)
    monkeypatch.undo()
    load_run_state(resumed, state)
    make_steps(resumed, STEPS - INTERRUPTED)
    if not equal(run.network.state_dict(), resumed.network.state_dict()):
        return "is not resumed bit for bit"
    seed_everything(1)
    if not equal(run.network.state_dict(), plain_loop(library, name, network, batches)):
        return "differs from a plain loop"
    return None


@pytest.mark.parametrize(("library", "part"), CASES)
def test_every_name_trains_as_in_a_plain_loop_and_is_resumed_or_is_refused(library, part, monkeypatch):
    with warnings.catch_warnings(action="ignore"), torch.compiler.set_stance("force_eager"):
        faults = {name: fault(library, name, monkeypatch) for name in NAMES[library][part::PARTS]}
    assert {name: what for name, what in faults.items() if what} == {}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_a_run_cannot_use_is_refused_with_the_reason(name):
    assert name.upper() in map(str.upper, dir(pytorch_optimizer))
    with pytest.raises(UserError, match=f"optimizer.name={name}: {UNUSABLE[name]}"):
        build(config_of("pytorch_optimizer", name))


def test_what_is_listed_are_names():
    names = {f"{library} {name}" for library, names in NAMES.items() for name in names}
    assert {*NEEDS, *REFUSED} <= names
