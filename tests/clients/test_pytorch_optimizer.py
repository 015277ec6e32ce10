"""The checks that pytorch_optimizer makes of each of its optimizers, made of ours; and its registry and wrappers."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import error, flat
from trainopt.optimizers import AdaptiveNesterov, EHNewton, Newton

library = pytest.importorskip("pytorch_optimizer")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning"),
]
SECOND_ORDER = (EHNewton, Newton)
OURS = (*SECOND_ORDER, AdaptiveNesterov)
RUNS = [
    (EHNewton, {"lr": 0.5, "damping": 0.05, "weight_decay": 1e-3, "cg_max_iter": 5}),
    (EHNewton, {"lr": 0.5, "damping": 1e-3, "weight_decay": 1e-3, "cg_max_iter": 1}),
    (EHNewton, {"lr": 0.5, "damping": 1e-3, "weight_decay": 1e-3, "cg_max_iter": 2, "momentum": 0.5}),
    (EHNewton, {"lr": 0.5, "damping": 0.1, "weight_decay": 1e-3, "blocks": "parameter"}),
    (EHNewton, {"lr": 0.5, "damping": 1e-3, "preconditioner": "diagonal"}),
    (Newton, {"lr": 0.5, "damping": 1.0, "weight_decay": 1e-3}),
    (AdaptiveNesterov, {"weight_decay": 1e-3}),
]


def classifier(dtype=torch.float32):
    torch.manual_seed(42)
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).to(dtype)


def points(dtype=torch.float32):
    """Two clouds of points, and which of them each belongs to."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(200) % 2).float()[:, None]
    return (torch.randn(200, 2, generator=generator) + 4 * labels - 2).to(dtype), labels.to(dtype)


@pytest.mark.parametrize(
    ("kind", "options", "how"),
    [
        (kind, options, how)
        for kind, options in RUNS
        for how in ("float32", "bfloat16 weights", "autocast")
        if not ("preconditioner" in options and "weights" in how)  # refused, as tests/optimizers/test_losses.py says
    ],
)
def test_the_loss_of_a_classifier_falls(kind, options, how):
    """By backward(create_graph=True) and step(), as of its AdaHessian; by a closure where the optimizer needs one."""
    dtype = torch.bfloat16 if "weights" in how else torch.float32
    model, (inputs, labels) = classifier(dtype), points(dtype)
    optimizer = kind(model.parameters(), **options)

    def loss():
        with torch.autocast("cpu", torch.bfloat16) if how != "float32" else contextlib.nullcontext():
            return F.binary_cross_entropy_with_logits(model(inputs), labels)

    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward(create_graph=kind in SECOND_ORDER)
        return value

    losses = []
    for _ in range(20):
        if kind in SECOND_ORDER:
            losses.append(float(closure().detach()))
            optimizer.step()
        else:
            losses.append(float(optimizer.step(closure).detach()))
    assert losses[0] > 1.5 * losses[-1]


@pytest.mark.parametrize("kind", OURS)
def test_parameters_without_a_gradient_stay(kind):
    """In several groups; a closure that returns a number, and gradients that autograd.grad has computed."""
    params = [torch.ones(1, 1).requires_grad_(trained) for trained in (True, False, True, False)]
    optimizer = kind([{"params": params[:2]}, {"params": params[2:3]}, {"params": params[3:]}])
    optimizer.zero_grad()
    loss = (params[0] + params[2]).pow(2).sum()
    params[0].grad, params[2].grad = torch.autograd.grad(loss, [params[0], params[2]], create_graph=True)
    assert optimizer.step(lambda: 0.1) == 0.1
    assert [p.item() == 1 for p in params] == [False, True, False, True]
    optimizer.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", SECOND_ORDER)
def test_a_closure_that_returns_a_number_without_any_gradient_is_an_error(kind):
    with pytest.raises(ValueError, match="^the closure must return the loss with its graph"):
        kind([torch.ones(1, 1).requires_grad_()]).step(lambda: 1.0)


def test_adaptive_nesterov_without_any_gradient_stays_where_it_is():
    weight = torch.ones(1, 1).requires_grad_()
    assert AdaptiveNesterov([weight]).step(lambda: 1.0) == 1.0
    assert weight.item() == 1


@pytest.mark.parametrize("kind", OURS)
def test_a_gradient_of_zero_moves_nothing(kind):
    weight = torch.zeros(1, 1).requires_grad_()
    optimizer = kind([weight])

    def closure():
        loss = weight.pow(2).sum()
        if kind is AdaptiveNesterov:
            optimizer.zero_grad()
            loss.backward()
        return loss

    optimizer.step(closure)
    assert weight.item() == 0


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, name, value) for kind in SECOND_ORDER for name, value in (("lr", -1e-2), ("damping", -1e-6))),
        *((kind, "weight_decay", -1e-3) for kind in OURS),
        *((kind, "momentum", -1e-3) for kind in (EHNewton, AdaptiveNesterov)),
    ],
)
def test_negative_numbers_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}={value}: must be "):
        kind([torch.ones(1)], **{name: value})


@pytest.mark.parametrize("kind", OURS)
def test_a_sparse_gradient_is_refused(kind):
    weight = torch.randn(5, 1).requires_grad_()
    weight.grad = torch.rand(5, 1).to_sparse()
    with pytest.raises(ValueError, match=r"^gradients must not be sparse|with its graph"):
        kind([weight]).step(lambda: 0.1)


@pytest.mark.parametrize("kind", SECOND_ORDER)
def test_a_complex_parameter_is_refused(kind):
    with pytest.raises(ValueError, match="complex"):
        kind([torch.zeros(1, 1, dtype=torch.complex64).requires_grad_()])


@pytest.mark.parametrize("kind", OURS)
def test_its_registry_takes_ours_and_leaves_biases_and_norms_out_of_weight_decay(kind, monkeypatch):
    optimizers = library.optimizer.OPTIMIZERS
    monkeypatch.setitem(optimizers, kind.__name__.lower(), kind)
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    options = {} if kind is AdaptiveNesterov else {"lr": 0.1}
    optimizer = library.load_optimizer(kind.__name__)(
        library.get_optimizer_parameters(model, 0.3, ("bias", "LayerNorm.weight", "LayerNorm.bias")), **options
    )
    decays = [(g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in optimizer.param_groups]
    assert decays == [(0.3, [(3, 2), (1, 3)]), (0.0, [(3,), (3,), (3,), (1,)])]


@pytest.mark.parametrize("kind", OURS)
def test_its_lookahead_around_ours_goes_to_the_mean_of_slow_and_fast_weights(kind):
    """It passes over parameters without a `.grad`, so a second-order optimizer gets gradients with their graph."""

    def trained(wrap, steps):
        model, (inputs, labels) = classifier(), points()
        optimizer = wrap(kind(model.parameters(), **({"damping": 1.0} if kind is Newton else {})))

        def closure():
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(inputs), labels)
            loss.backward(create_graph=kind in SECOND_ORDER)
            return loss

        for _ in range(steps):
            if kind in SECOND_ORDER:
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)
        return flat(model.parameters())

    start = flat(classifier().parameters())
    fast = trained(lambda inner: inner, 3)
    both = trained(lambda inner: library.Lookahead(inner, k=3, alpha=0.5), 3)
    assert error(both, (start + fast) / 2) < 1e-6
