"""Factors of K-FAC, vs. loops over samples and positions, the model's own distribution, and curvlinops."""

import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import numbers
from trainopt.optimizers.curvature import curvature as curvature_module
from trainopt.optimizers.curvature.curvature import Curvature
from trainopt.optimizers.curvature.loss import evaluate
from trainopt.optimizers.preconditioners import kronecker
from trainopt.optimizers.preconditioners.kronecker import batch_factors, input_factor, input_products
from trainopt.optimizers.preconditioners.layers import LayerRecorder
from trainopt.optimizers.shard import WHOLE


@pytest.fixture
def all_rows(monkeypatch):
    """Lets the inputs' factors be means over all rows."""
    monkeypatch.setattr(kronecker, "ENOUGH_ROWS", 100)


class Rows(nn.Module):
    """Linear layers at several positions, and the mean over these."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.second(self.first(x).tanh()).mean(1)


NETWORKS = {
    "linear": lambda: (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), numbers(6, 4)),
    "positions": lambda: (Rows(), numbers(5, 4, 3)),
    "convolutions": lambda: (
        nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(3, 2, (1, 2), dilation=(1, 2), padding="same", bias=False),
            nn.Flatten(),
            nn.Linear(18, 3),
        ),
        numbers(4, 2, 5, 6),
    ),
    "batch norm": lambda: (
        nn.Sequential(nn.Conv1d(2, 3, 2, padding=1), nn.BatchNorm1d(3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)),
        numbers(4, 2, 5),
    ),
}


def problem(name):
    torch.manual_seed(0)
    network, x = NETWORKS[name]()
    return network.double(), x, torch.arange(len(x)) % 3


def linearized(network, closure):
    """The curvature of a loss, the calls of layers and the parameters outside of these."""
    params = [p for p in network.parameters() if p.requires_grad]
    recorder = LayerRecorder(params)
    curvature = Curvature.of_loss(*evaluate(closure, "gauss_newton", inner=recorder), params, "gauss_newton")
    bias_of = {w: calls[0].bias for w, calls in recorder.calls.items() if calls[0].bias is not None}
    layers = {*recorder.calls, *bias_of.values()}
    return curvature, recorder.calls, bias_of, [p for p in params if p not in layers]


def factors(network, closure):
    return batch_factors(*linearized(network, closure), seed=1)()


def patch_at(layer, x, place):
    """What a layer multiplies its weight with at a position, by slicing; and the derivative's index."""
    if isinstance(layer, nn.Linear):
        return x[place]
    n = layer.weight.dim() - 2
    if layer.padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        margins = [(r // 2, r - r // 2) for r in reach]
    else:
        margins = [(p, p) for p in layer.padding]
    x = F.pad(x, [m for pair in reversed(margins) for m in pair])
    window = [slice(None)]
    for i in range(n):
        start = place[i] * layer.stride[i]
        window.append(slice(start, start + layer.dilation[i] * (layer.kernel_size[i] - 1) + 1, layer.dilation[i]))
    return x[tuple(window)].reshape(-1)


def by_loops(network, x, r):
    """A and G of each weight, one sample and position after another, for derivatives r at the outputs."""
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    seen = {}
    hooks = [m.register_forward_hook(lambda m, a, y: seen.__setitem__(m, (a[0].detach().clone(), y))) for m in layers]
    for m in network.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    outputs = network(x)
    derivatives = torch.autograd.grad(outputs, [seen[m][1] for m in layers], r)
    for hook in hooks:
        hook.remove()
    result = {}
    for m, dy in zip(layers, derivatives, strict=True):
        inputs, order = seen[m][0], m.weight[0].numel() + (m.bias is not None)
        A, G, count = torch.zeros(order, order).double(), torch.zeros(len(m.weight), len(m.weight)).double(), 0
        g_at = dy if isinstance(m, nn.Linear) else dy.movedim(1, -1)
        for i in range(len(x)):
            for place in itertools.product(*map(range, g_at.shape[1:-1])):
                a = patch_at(m, inputs[i], place)
                a = torch.cat([a, a.new_ones(1)]) if m.bias is not None else a
                g = g_at[(i, *place)]
                A, G, count = A + torch.outer(a, a), G + torch.outer(g, g), count + 1
        result[m.weight] = A / count, G
    return result


@pytest.mark.parametrize("name", NETWORKS)
def test_factors_are_those_of_a_loop_over_samples_and_positions(name, all_rows, monkeypatch):
    network, x, y = problem(name)
    r = numbers(len(x), 3, seed=3)
    expected = by_loops(network, x, r)
    monkeypatch.setattr(curvature_module, "sample_at_outputs", lambda *arguments: [r])
    of_batch = factors(network, lambda: F.cross_entropy(network(x), y))
    assert expected.keys() <= of_batch.keys()
    for weight, (A, G) in expected.items():
        torch.testing.assert_close(of_batch[weight]["input_factor"], A, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(of_batch[weight]["output_factor"], G, rtol=1e-12, atol=1e-14)
    others = {p for p in network.parameters() if "sampled_curvature" in of_batch.get(p, ())}
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d)]
    assert others == {p for m in norms for p in m.parameters()}
    for p, h in zip(others, torch.autograd.grad(network(x), list(others), r) if others else (), strict=True):
        torch.testing.assert_close(of_batch[p]["sampled_curvature"], h.square())


@pytest.mark.parametrize("padding", ["valid", 1])
def test_the_inputs_factor_is_of_the_first_samples_where_these_have_rows_enough(padding):
    """Four rows a sample, or six, and an order of 5: 10 rows are enough, of 3 or of 2 samples."""
    torch.manual_seed(0)
    network, x = nn.Conv1d(2, 3, 2, padding=padding).double(), numbers(20, 2, 5)
    enough = 3 if padding == "valid" else 2
    calls = [linearized(network, lambda x=x: F.mse_loss(network(x), 0 * network(x)))[1] for x in (x, x[:enough])]
    whole, part = (input_factor(*input_products(of[network.weight][:1], True, WHOLE), True) for of in calls)
    torch.testing.assert_close(whole, part, rtol=1e-12, atol=1e-14)


DRAWS = 20_000


@pytest.mark.parametrize(
    ("function", "targets", "scale"),
    [
        (lambda z, t: F.cross_entropy(z, t, reduction="sum", label_smoothing=0.1), torch.arange(3) % 3, 1),
        (lambda z, t: F.cross_entropy(z, t, torch.tensor([0.5, 2.0, 1.0]).double()), torch.tensor([1, 0, 2]), DRAWS),
        (lambda z, t: 3 * F.cross_entropy(z, t, ignore_index=1), torch.tensor([1, 0, 2]), DRAWS),
        (F.binary_cross_entropy_with_logits, numbers(3, 3).sigmoid(), DRAWS),
        (lambda z, t: F.mse_loss(z, t, reduction="sum"), numbers(3, 3), 1),
        (F.smooth_l1_loss, numbers(3, 3), DRAWS),
    ],
)
def test_sampled_derivatives_have_the_losss_second_derivatives_as_second_moments(function, targets, scale):
    """The mean of r r^T over many samples with equal outputs is L within five standard errors, and that of r is 0; the
    trace is that of L."""
    z = numbers(3, 3, seed=5)
    L = torch.autograd.functional.hessian(lambda z: function(z, targets), z).view(9, 9)
    many = z.repeat(DRAWS, 1).requires_grad_()
    repeated = targets.repeat(DRAWS, *[1] * (targets.dim() - 1))
    curvature = Curvature(lambda: function(many, repeated), [many], "gauss_newton")
    draws = curvature.sample([many], torch.Generator().manual_seed(0))[0].view(DRAWS, 9) * scale**0.5
    products = draws.unsqueeze(1) * draws.unsqueeze(2)
    error = products.std(0) / DRAWS**0.5
    assert ((products.mean(0) - L).abs() <= 5 * error + 1e-12).all()
    assert (draws.mean(0).abs() <= 5 * draws.std(0) / DRAWS**0.5 + 1e-12).all()
    assert L.abs().max() > 0.01
    assert curvature.trace_later()() * scale / DRAWS == pytest.approx(L.trace().item(), rel=1e-9)


def exact_factors(network, closure, L, monkeypatch):
    """A, and G for all targets at once: the sum over columns c of the root of L."""
    values, vectors = torch.linalg.eigh(L)
    roots = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    total = {}
    for c in range(roots.shape[-1]):
        monkeypatch.setattr(curvature_module, "sample_at_outputs", lambda *arguments, c=c: [roots[..., c]])
        for weight, parts in factors(network, closure).items():
            G = total[weight][1] if weight in total else 0
            total[weight] = parts["input_factor"], G + parts["output_factor"]
    return total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "positions", "convolutions"])
def test_curvlinops_has_the_same_factors(name, all_rows, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curvlinops = pytest.importorskip("curvlinops")
        network, x, y = problem(name)
        for m in network.modules():
            if isinstance(m, nn.ReLU):
                m.inplace = False
        theirs = curvlinops.KFACLinearOperator(
            network,
            nn.CrossEntropyLoss(),
            list(network.parameters()),
            [(x, y)],
            fisher_type="type-2",
            separate_weight_and_bias=False,
        )
        matrix = theirs @ torch.eye(theirs.shape[1], dtype=torch.float64)
    p = network(x).detach().softmax(1)
    L = (torch.diag_embed(p) - p.unsqueeze(1) * p.unsqueeze(2)) / len(x)
    ours = exact_factors(network, lambda: F.cross_entropy(network(x), y), L, monkeypatch)
    start = 0
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            A, G = ours[module.weight]
            size = len(G) * len(A)
            order = torch.arange(size).view(len(G), len(A))
            if module.bias is not None:  # theirs has all weights before the biases
                order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
            order = order.flatten()
            block = torch.kron(G, A)[order][:, order]
            torch.testing.assert_close(matrix[start : start + size, start : start + size], block)
            start += size
    assert start == len(matrix)
