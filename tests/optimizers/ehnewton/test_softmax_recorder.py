"""Which losses EHNewton takes for those of linear softmax classifiers; all others keep the general numbers."""

import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import error, flat, numbers
from trainopt.optimizers import L2, EHNewton
from trainopt.optimizers.regularizers.l2 import sum_of_squares

X, Y, T = numbers(8, 6), numbers(8, 6, seed=1), torch.tensor([0, 2, 1, 1, 4, 2, 3, 1])
PENALTY = L2(0.05)


def ce(logits, targets=T, **options):
    return F.cross_entropy(logits, targets, **options)


def linear(x, weight, bias):
    return F.linear(x, weight, bias)


def hidden(x, weight, bias):
    """The same numbers, by what is not looked for."""
    return x @ weight.t() + bias


def parameters(seed=0):
    return nn.Parameter(numbers(5, 6, seed=seed) / 2), nn.Parameter(numbers(5, seed=seed + 1) / 2)


def walked(loss, layer, iterations=1, steps=2, **options):
    """The weights after steps down a loss(layer, weight, bias)."""
    params = parameters()
    optimizer = EHNewton(params, **{"lr": 0.5, "damping": 0.5, "cg_max_iter": iterations, **options})
    for _ in range(steps):
        optimizer.step(lambda: loss(layer, *params))
    return flat(params)


def mixed(layer, w, b):
    z = layer(X, w, b)
    return 0.7 * ce(z) + 0.3 * ce(z, T.flip(0))


def scaled_logits(layer, w, b):
    z = layer(X, w, b)
    z *= 2
    return ce(z)


def hooked_logits(layer, w, b):
    z = layer(X, w, b)
    z.register_hook(lambda g: g.clamp(-0.05, 0.05))
    return ce(z)


def touched_bias(layer, w, b):
    loss = ce(layer(X, w, b))
    with torch.no_grad():
        b.mul_(1.0)
    return loss


def own_function(layer, w, b):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.variable = []
            return 2 * x

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    return Twice.apply(ce(layer(X, w, b)))


IS_ONE = {
    "a sum of it": lambda layer, w, b: ce(layer(X, w, b)),
    "scaled": lambda layer, w, b: 3 * (0.5 * ce(layer(X, w, b)) - 1) / 2,
    "added in place": lambda layer, w, b: ce(layer(X, w, b)).mul(0.5).add_(PENALTY([w])),
    "l2 twice": lambda layer, w, b: PENALTY([w]) + ce(layer(X, w, b)) + 2 * PENALTY([w]),
    "squares by themselves": lambda layer, w, b: 0.1 * sum_of_squares(w) + ce(layer(X, w, b)),
    "a module's loss": lambda layer, w, b: nn.CrossEntropyLoss(label_smoothing=0.1)(layer(X, w, b), T),
    "logits looked at": lambda layer, w, b: ce(z := layer(X, w, b)) + 0 * z.detach().argmax(),
    "constant factor of its own value": lambda layer, w, b: (s := ce(layer(X, w, b))) * s.detach(),
    "another product, unused": lambda layer, w, b: ce((layer(Y, w, b), layer(X, w, b))[1]),
    "an index to ignore that is not there": lambda layer, w, b: ce(layer(X, w, b), ignore_index=7),
    "a function of somebody's": own_function,
}

IS_NONE = {
    "squares of the bias": lambda layer, w, b: ce(layer(X, w, b)) + 0.1 * b.square().sum(),
    "l2 of the bias": lambda layer, w, b: ce(layer(X, w, b)) + PENALTY([w, b]),
    "squares of the weights, written out": lambda layer, w, b: ce(layer(X, w, b)) + 0.1 * w.square().sum(),
    "the loss squared": lambda layer, w, b: ce(layer(X, w, b)) ** 2,
    "the loss times l2": lambda layer, w, b: ce(layer(X, w, b)) * (1 + PENALTY([w])),
    "l2 squared": lambda layer, w, b: ce(layer(X, w, b)) + PENALTY([w]) ** 2,
    "l2 alone": lambda layer, w, b: PENALTY([w]),
    "another use of the logits": lambda layer, w, b: ce(z := layer(X, w, b)) + 0.1 * z.square().mean(),
    "two losses of the logits": mixed,
    "weights shared by two products": lambda layer, w, b: ce(layer(X, w, b)) + 0.4 * ce(layer(Y, w, b)),
    "a bias shared by two products": lambda layer, w, b: ce(layer(X, w, b)) + ce(layer(Y, w.detach(), b)),
    "an input that needs a gradient": lambda layer, w, b: ce(layer(X.clone().requires_grad_(), w, b)),
    "a network": lambda layer, w, b: ce(layer(torch.cat([layer(X, w, b).tanh(), X[:, :1]], 1), w, b)),
    "other logits": lambda layer, w, b: ce(2 * layer(X, w, b)),
    "some of the logits": lambda layer, w, b: ce(layer(X, w, b)[:4], T[:4]),
    "a row to ignore": lambda layer, w, b: ce(layer(X, w, b), ignore_index=2),
    "weights of classes": lambda layer, w, b: ce(layer(X, w, b), weight=torch.arange(1, 6).double()),
    "losses of rows": lambda layer, w, b: ce(layer(X, w, b), reduction="none").mean(),
    "a linear term": lambda layer, w, b: ce(layer(X, w, b)) + 0.1 * w.sum(),
    "targets with a gradient": lambda layer, w, b: ce(layer(X, w, b), torch.softmax(X[:, :5] @ w[:, :5], 1)),
    "another loss": lambda layer, w, b: F.mse_loss(layer(X, w, b), Y[:, :5]),
    "logits changed in place": scaled_logits,
    "a hook on the logits": hooked_logits,
    "a bias touched after its use": touched_bias,
}


@pytest.mark.parametrize("iterations", [1, 12])
@pytest.mark.parametrize("loss", IS_ONE.values(), ids=IS_ONE)
def test_it_is_known(closed_forms, loss, iterations):
    actual = walked(loss, linear, iterations)
    assert closed_forms() == 2
    expected = walked(loss, hidden, iterations)
    assert closed_forms() == 2
    assert error(actual, expected) < 1e-9


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("iterations", [1, 12])
@pytest.mark.parametrize("loss", IS_NONE.values(), ids=IS_NONE)
def test_what_is_nearly_one_goes_the_general_way(closed_forms, loss, iterations):
    actual = walked(loss, linear, iterations)
    assert closed_forms() == 0
    assert error(actual, walked(loss, hidden, iterations)) < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        {"warm_start": 0.5},
        {"adapt_damping": True},
        {"backtracking": 2},
        {"curvature_share": 0.5},
    ],
)
def test_options_that_need_more_than_a_direction_go_the_general_way(closed_forms, options):
    params = parameters()

    def closure(share=1.0):
        some = round(8 * share)
        return ce(linear(X[:some], *params), T[:some])

    EHNewton(params, damping=0.5, cg_max_iter=2, **options).step(closure)
    assert closed_forms() == 0


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
def test_gradients_that_are_there_already_go_the_general_way(closed_forms):
    params = parameters()
    ce(linear(X, *params)).backward(create_graph=True)
    EHNewton(params).step()
    assert closed_forms() == 0
    for p in params:
        p.grad = None


def test_half_precision_goes_the_general_way(closed_forms):
    params = [nn.Parameter(p.detach().float()) for p in parameters()]

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return ce(linear(X.float(), *params))

    EHNewton(params, cg_max_iter=1).step(closure)
    assert closed_forms() == 0


def test_of_further_parameters_the_loss_may_not_depend(closed_forms):
    params, others = parameters(), parameters(3)
    before = flat(others)
    EHNewton([*params, *others], damping=0.5).step(lambda: ce(linear(X, *params)))
    assert closed_forms() == 1
    assert torch.equal(flat(others), before)
    EHNewton([*params, *others], damping=0.5).step(lambda: ce(linear(X, *params)) + others[1].square().sum())
    assert closed_forms() == 1


def test_a_shared_bias_is_not_two(closed_forms):
    def stepped(layer):
        w, b = parameters()
        v = nn.Parameter(numbers(5, 6, seed=9))
        EHNewton([w, v, b], lr=1.0, damping=0.5).step(lambda: ce(layer(X, w, b)) + ce(layer(Y, v, b)))
        return flat([w, v, b])

    assert error(stepped(linear), stepped(hidden)) < 1e-9
    assert closed_forms() == 0


@pytest.mark.parametrize("iterations", [1, 3])
def test_nothing_of_the_graph_outlives_a_step(closed_forms, no_collector, iterations):
    params, logits = parameters(), []
    optimizer = EHNewton(params, cg_max_iter=iterations)

    def closure():
        z = linear(X, *params)
        logits.append(weakref.ref(z))
        return ce(z)

    optimizer.step(closure)
    assert closed_forms() == 1
    assert logits[0]() is None
