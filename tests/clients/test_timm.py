"""The optimizers in timm: its registry, the loop of its training script, and the checks that it makes of optimizers."""

import copy

import pytest
import timm
import torch
from timm.optim import OptimInfo, create_optimizer_v2
from timm.optim._optim_factory import default_registry
from timm.scheduler import create_scheduler_v2
from timm.utils import NativeScaler, dispatch_clip_grad
from torch import nn
from torch.nn import functional as F

from helpers.references import error, flat, step
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
]
NAMES = {"ehnewton": EHNewton, "newton": Newton, "adaptivenesterov": AdaptiveNesterov}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(default_registry, "_optimizers", dict(default_registry._optimizers))
    for name, kind in NAMES.items():
        default_registry.register(OptimInfo(name, kind, has_eps=False, second_order=kind is not AdaptiveNesterov))


def network():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3, drop_rate=0.0)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 1])


def decays(optimizer):
    return {group["weight_decay"] for group in optimizer.param_groups}


@pytest.mark.parametrize("name", NAMES)
def test_the_factory_leaves_biases_and_norms_out_of_weight_decay(name):
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    optimizer = create_optimizer_v2(model, name, weight_decay=0.05)
    assert type(optimizer) is NAMES[name]
    assert decays(optimizer) == {0.0, 0.05}
    decayed = [g["params"] for g in optimizer.param_groups if g["weight_decay"] > 0]
    assert [p.shape for p in decayed[0]] == [(6, 5), (3, 6)]


def test_layer_decay_and_timms_schedule_give_each_layer_its_learning_rate():
    optimizer = create_optimizer_v2(network(), "ehnewton", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=10)
    scheduler.step(5)
    half = 0.05
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(half * group["lr_scale"], rel=0.02)


def trained_as_in_the_script(kind, steps=4, scaler=None, clip=None, accumulation=1, **options):
    """The weights after the body of the loop of timm's train.py."""
    model = network().train()
    optimizer = create_optimizer_v2(model, kind, **options)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=8)
    second_order = hasattr(optimizer, "is_second_order") and optimizer.is_second_order
    for number in range(steps):
        for part in range(accumulation):
            inputs, targets = batch(number * accumulation + part)
            loss = F.cross_entropy(model(inputs), targets) / accumulation
            needs_update = part == accumulation - 1
            if scaler is not None:
                scaler(loss, optimizer, clip_grad=clip, parameters=model.parameters(), create_graph=second_order,
                       need_update=needs_update)  # fmt: skip
                continue
            loss.backward(create_graph=second_order)
            if needs_update:
                if clip is not None:
                    dispatch_clip_grad(model.parameters(), value=clip, mode="norm")
                optimizer.step()
        optimizer.zero_grad()
        scheduler.step(number + 1)
    return flat(model.parameters()), optimizer


def trained_plainly(kind, steps=4, accumulation=1, **options):
    """The weights after the same steps with closures, and weight decay written out."""
    model = network().train()
    weight_decay = options.pop("weight_decay", 0.0)
    optimizer = kind(model.parameters(), **options)
    schedule = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=options["lr"])
    scheduler, _ = create_scheduler_v2(schedule, sched="cosine", num_epochs=8)
    for number in range(steps):
        parts = [batch(number * accumulation + part) for part in range(accumulation)]
        optimizer.param_groups[0]["lr"] = lr = schedule.param_groups[0]["lr"]
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step(lambda m=model, b=parts: sum(F.cross_entropy(m(x), y) for x, y in b) / accumulation)
        with torch.no_grad():
            for p, b in zip(model.parameters(), before, strict=True):
                if p.ndim > 1:
                    p.sub_(lr * weight_decay * b)
        scheduler.step(number + 1)
    return flat(model.parameters())


@pytest.mark.parametrize("options", [{"cg_max_iter": 1}, {"cg_max_iter": 3, "warm_start": 0.5}])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_loop_of_the_script_makes_the_steps_of_a_plain_loop(options, accumulation):
    options = {"lr": 0.05, "damping": 0.05, "weight_decay": 0.1, **options}
    theirs, optimizer = trained_as_in_the_script("ehnewton", accumulation=accumulation, **options)
    ours = trained_plainly(EHNewton, accumulation=accumulation, **options)
    start = flat(network().parameters())
    assert error(theirs - start, ours - start) < 1e-2  # other kernels, in float32
    assert optimizer.last_step["hvps"] >= 1


def test_the_scripts_scaler_leaves_the_steps_as_they_are():
    options = {"lr": 0.05, "damping": 0.05, "cg_max_iter": 3}
    scaler = NativeScaler("cpu")
    scaled, optimizer = trained_as_in_the_script("ehnewton", scaler=scaler, **options)
    plain, other = trained_as_in_the_script("ehnewton", **options)
    start = flat(network().parameters())
    assert error(scaled - start, plain - start) < 1e-4
    assert optimizer.last_step["fallbacks"] == other.last_step["fallbacks"]


def test_the_scripts_scaler_with_clipping_says_what_to_do():
    """It calls unscale_, which divides gradients without their graph."""
    with pytest.raises(ValueError, match=r"^scaler.unscale_\(optimizer\) divides the gradients, but not their graph"):
        trained_as_in_the_script("ehnewton", scaler=NativeScaler("cpu"), clip=1.0, lr=0.05)


def test_the_script_may_clip_without_a_scaler():
    theirs, optimizer = trained_as_in_the_script("ehnewton", clip=0.01, lr=0.05, damping=0.0, cg_max_iter=1)
    assert optimizer.last_step["fallbacks"] == 0
    assert torch.isfinite(theirs).all()


def test_a_checkpoint_of_the_script_is_loaded_without_the_state_of_another_optimizer():
    _, optimizer = trained_as_in_the_script("ehnewton", lr=0.05, warm_start=0.9)
    again = create_optimizer_v2(network(), "ehnewton", lr=0.05, warm_start=0.9)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert len(again.state) == len(optimizer.state) > 0
    with pytest.raises(ValueError, match="^the state is that of another optimizer: EHNewton has no "):
        again.load_state_dict(create_optimizer_v2(network(), "adamw", lr=0.05).state_dict())


# The properties that timm tests of each of its optimizers (tests/test_optim.py).


STEPS = {"ehnewton": 50, "newton": 20, "adaptivenesterov": 200}
LR = {"ehnewton": 1e-2, "newton": 1e-2, "adaptivenesterov": None}


def groups(weight, bias, how, lr):
    extra = {} if lr is None else {"lr": lr}
    return {
        "list": ([weight, bias], extra),
        "groups": ([{"params": [weight]}, {"params": [bias], **extra}], {k: v / 10 for k, v in extra.items()}),
        "one group": ([{"params": bias, **extra}], {k: v / 10 for k, v in extra.items()}),
        "default lr": ([{"params": bias, **extra}], {}),
    }[how]


def made(name, weight, bias, how):
    params, options = groups(weight, bias, how, LR[name])
    return create_optimizer_v2(params, name, **options)


@pytest.mark.parametrize("how", ["list", "groups", "one group", "default lr"])
@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_whatever_the_groups_and_the_memory_of_parameters(name, how, contiguous):
    torch.manual_seed(0)
    if contiguous:
        weight, bias = nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.randn(10))
    else:
        weight, bias = nn.Parameter(torch.randn(10, 5, 2)[..., 0]), nn.Parameter(torch.randn(10, 2)[..., 0])
    inputs = torch.randn(5)
    optimizer = made(name, weight, bias, how)
    assert repr(optimizer).startswith(NAMES[name].__name__)

    def loss():
        return (weight.mv(inputs) + bias).pow(2).sum()

    first = loss().item()
    for _ in range(STEPS[name]):
        step(optimizer, loss)
    assert loss().item() < first


@pytest.mark.parametrize("how", ["list", "groups", "one group"])
@pytest.mark.parametrize("name", NAMES)
def test_a_loaded_state_goes_on_beside_the_first_and_is_not_changed_by_loading(name, how):
    torch.manual_seed(0)
    inputs = torch.randn(5)
    pairs = []

    def loss_of(weight, bias):
        return lambda: (weight.mv(inputs) + bias).pow(2).sum()

    weight, bias = nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.randn(10))
    optimizer = made(name, weight, bias, how)
    for _ in range(5):
        step(optimizer, loss_of(weight, bias))
    state = copy.deepcopy(optimizer.state_dict())
    for dtype in (torch.float32, torch.float64):
        other = [nn.Parameter(p.detach().clone().to(dtype)) for p in (weight, bias)]
        again = made(name, *other, how)
        again.load_state_dict(state)
        pairs.append((again, other))
    kept = copy.deepcopy(optimizer.state_dict())
    assert repr(state) == repr(kept)
    (same, other), (double, wide) = pairs
    for _ in range(5):
        step(optimizer, loss_of(weight, bias))
        step(same, loss_of(*other))
        assert torch.equal(weight, other[0])
        assert torch.equal(bias, other[1])
    inputs = inputs.double()
    step(double, loss_of(*wide))
    assert all(v.dtype == torch.float64 for s in double.state.values() for v in s.values() if torch.is_tensor(v))
    assert repr(optimizer.state_dict()) == repr(same.state_dict())
    public = {key for key in vars(optimizer) if not key.startswith("_")}
    assert public == {key for key in vars(copy.deepcopy(optimizer)) if not key.startswith("_")}


@pytest.mark.parametrize("name", NAMES)
def test_on_rosenbrocks_function_it_ends_nearer_to_the_minimum(name):
    point = nn.Parameter(torch.tensor([1.5, 1.5]))
    options = {} if LR[name] is None else {"lr": 1.0 if name == "newton" else 0.1}
    optimizer = create_optimizer_v2([point], name, **options)
    for _ in range(STEPS[name]):
        step(optimizer, lambda: (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2)
    assert point.detach().dist(torch.ones(2)) <= torch.tensor([0.5, 0.5]).norm()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_small_network_falls_at_every_step(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Sigmoid(), nn.Linear(3, 1), nn.Sigmoid())
    inputs = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).reshape(3, 2)
    options = {} if LR[name] is None else {"lr": LR[name], "damping": 1.0}
    optimizer = create_optimizer_v2(model, name, **options)
    losses = [float(step(optimizer, lambda: model(inputs).sum()).detach()) for _ in range(20)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_a_registered_optimizer_is_listed_with_its_description():
    assert "ehnewton" in timm.optim.list_optimizers("ehn*")
    assert timm.optim.get_optimizer_info("ehnewton").second_order
