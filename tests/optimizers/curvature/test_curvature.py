"""Products with curvature of whole networks against dense second derivatives of torch, in float64."""

from functools import cache

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from helpers.references import Flatten, Problem, Residual, error, flat, numbers
from trainopt.models import Transformer
from trainopt.optimizers import Curvature, FastDoubleBackward, hessian_vector_product

TARGETS = torch.tensor([0, 2, 1, 1, 0, 2])
IMAGES = numbers(6, 4, 7, 7)
SIGNALS = numbers(6, 4, 9)
ROWS = numbers(6, 5)
TOKENS = numbers(6, 3).mul(9).long().abs() % 3
HALVES = numbers(6, 3, seed=1).sigmoid()
SHARES = numbers(6, 3, seed=2).softmax(1)


def ce(outputs):
    return F.cross_entropy(outputs, TARGETS)


def l2(params):
    return 0.1 * sum((p**2).sum() for p in params)


def quartic(params):
    """A penalty whose second derivatives depend on the weights."""
    return 0.1 * sum((p**4).sum() for p in params)


def mlp(activation=nn.Tanh, **options):
    return nn.Sequential(nn.Linear(5, 6, **options), activation(), nn.Linear(6, 4), activation(), nn.Linear(4, 3))


def conv(*options, **keywords):
    return Flatten(nn.Conv2d(4, 4, *options, **keywords), nn.Tanh(), nn.Conv2d(4, 3, 1))


def normed(*after, norm=nn.BatchNorm2d, first=4, **options):
    """Convolution and batch norm, then what is given, then convolution and batch norm."""
    return Flatten(
        nn.Conv2d(first, 4, 3, padding=1, bias=False), norm(4, **options), *after, nn.Conv2d(4, 3, 2), norm(3)
    )


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 3)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x.flatten(2).mT)).chunk(3, dim=2)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).mean(1))


class Auxiliary(nn.Module):
    """Two outputs from one body."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.extra = normed(nn.ReLU()), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        y = self.body(x)
        return self.head(y), self.extra(y)


class Shared(nn.Module):
    """One layer, used twice; another is never used."""

    def __init__(self):
        super().__init__()
        self.layer, self.out, self.unused = nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(torch.tanh(self.layer(torch.relu(self.layer(x)))))


class StandardisedWeights(nn.Module):
    """Batch norm over the weights of a convolution, as networks of timm have it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 3, 3))

    def forward(self, x):
        w = F.batch_norm(self.weight.reshape(1, 3, -1), None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, w).relu().flatten(2).mean(2)


class Transposed(nn.Module):
    """Weights and rows that do not lie in order."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3).t())

    def forward(self, x):
        return torch.tanh(F.linear(x.t().contiguous().t(), self.weight)) @ self.weight[:, :3]


class ThreeDimensions(nn.Module):
    """Rows of rows through linear layers, with one weight vector at the end."""

    def __init__(self):
        super().__init__()
        self.first, self.out = nn.Linear(7, 3), nn.Parameter(torch.randn(7))

    def forward(self, x):
        return self.first(x).relu().mean((1, 2)) + F.linear(x, self.out.unsqueeze(0)).mean((1, 2))


def frozen(network, *which):
    """A network with the parameters so named not trained."""
    for name, p in network.named_parameters():
        p.requires_grad_(not any(name == n or name.startswith(n + ".") for n in which))
    return network


def in_layout(network):
    return network.to(memory_format=torch.channels_last)


CASES = {
    "transformer": lambda: (Transformer((3,), 3, 3, 1, 3, 1, 1.0, "gelu", norm="pre", causal=True), TOKENS, ce),
    "mlp of relu": lambda: (mlp(nn.ReLU), ROWS, ce),
    "mlp of tanh": lambda: (mlp(), ROWS, ce),
    "mlp of gelu": lambda: (mlp(nn.GELU), ROWS, ce),
    "mlp without bias": lambda: (mlp(bias=False), ROWS, ce),
    "mlp of a single row": lambda: (mlp(), ROWS[0], lambda z: F.cross_entropy(z, TARGETS[0])),
    "batch norm of rows": lambda: (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), mlp()[1:2], nn.Linear(4, 3)),
                                   ROWS, ce),
    "inputs that require a gradient": lambda: (normed(nn.ReLU()), IMAGES.clone().requires_grad_(), ce),
    "batch norm first": lambda: (nn.Sequential(nn.BatchNorm2d(4), normed(nn.ReLU())), IMAGES, ce),
    "batch norm, relu in place": lambda: (normed(nn.ReLU(inplace=True)), IMAGES, ce),
    "batch norm, smooth activation": lambda: (normed(nn.GELU()), IMAGES, ce),
    "batch norm without affine": lambda: (normed(nn.ReLU(), affine=False), IMAGES, ce),
    "batch norm without statistics": lambda: (normed(nn.Tanh(), track_running_stats=False).eval(), IMAGES, ce),
    "batch norm, cumulative average": lambda: (normed(nn.Tanh(), momentum=None), IMAGES, ce),
    "batch norm of eval mode": lambda: (normed(nn.ReLU()).eval(), IMAGES, ce),
    "group norm": lambda: (normed(nn.ReLU(), norm=lambda c: nn.GroupNorm(1, c)), IMAGES, ce),
    "residual sum": lambda: (normed(Residual(*list(normed(nn.ReLU()))[:3]), nn.ReLU()), IMAGES, ce),
    "max-pool": lambda: (normed(nn.MaxPool2d(2)), IMAGES, ce),
    "max-pool, padded": lambda: (normed(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)), IMAGES, ce),
    "max-pool, dilated": lambda: (normed(nn.MaxPool2d(2, 1, dilation=2)), IMAGES, ce),
    "max-pool of negatives": lambda: (normed(nn.ReLU6(), nn.MaxPool2d(3, 1, 1)), IMAGES, ce),
    "average pool": lambda: (normed(nn.AvgPool2d(2)), IMAGES, ce),
    "relu6": lambda: (normed(nn.ReLU6(inplace=True)), 9 * IMAGES, ce),
    "hardtanh": lambda: (normed(nn.Hardtanh(-0.3, 0.4)), IMAGES, ce),
    "leaky relu, hardswish": lambda: (normed(nn.LeakyReLU(0.1), nn.Hardswish()), IMAGES, ce),
    "convolution with stride": lambda: (conv(3, stride=2), IMAGES, ce),
    "convolution with bias, padding": lambda: (conv(3, padding=(2, 0), stride=(1, 2)), IMAGES, ce),
    "convolution, padding same": lambda: (conv(3, padding="same"), IMAGES, ce),
    "convolution, circular": lambda: (conv(3, padding=1, padding_mode="circular"), IMAGES, ce),
    "convolution, dilated": lambda: (conv(2, dilation=3), IMAGES, ce),
    "convolution, grouped": lambda: (conv(3, groups=2), IMAGES, ce),
    "convolution, depthwise": lambda: (conv(3, groups=4, stride=2, padding=1), IMAGES, ce),
    "convolution, one dimension": lambda: (
        Flatten(nn.Conv1d(4, 4, 3, stride=2), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 3, 1)), SIGNALS, ce),
    "convolution, three dimensions": lambda: (
        Flatten(nn.Conv3d(2, 2, 2), nn.BatchNorm3d(2), nn.ReLU(), nn.Conv3d(2, 3, 1)),
        IMAGES.view(6, 2, 2, 7, 7), ce),
    "convolution, transposed": lambda: (
        Flatten(nn.ConvTranspose2d(4, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3)), IMAGES, ce),
    "channels last": lambda: (in_layout(normed(nn.ReLU(), nn.MaxPool2d(2))),
                              IMAGES.to(memory_format=torch.channels_last), ce),
    "images not in order": lambda: (normed(nn.ReLU()), IMAGES.transpose(2, 3)[..., ::2], ce),
    "weights not in order": lambda: (Transposed(), ROWS, ce),
    "weights standardised": lambda: (StandardisedWeights(), IMAGES, ce),
    "linear of four dimensions": lambda: (ThreeDimensions(), IMAGES, ce),
    "layer norm and attention": lambda: (Attention(), IMAGES, ce),
    "shared weights, unused weights": lambda: (Shared(), ROWS, ce),
    "two outputs, two losses": lambda: (
        Auxiliary(), IMAGES, lambda z: ce(z[0]) + 0.4 * F.cross_entropy(z[1], TARGETS, label_smoothing=0.1)),
    "targets that are probabilities": lambda: (
        normed(nn.ReLU()), IMAGES, lambda z: F.cross_entropy(z, SHARES, label_smoothing=0.1)),
    "frozen convolution": lambda: (frozen(normed(nn.ReLU()), "3.weight"), IMAGES, ce),
    "frozen first layers": lambda: (frozen(normed(nn.ReLU()), "0", "1"), IMAGES, ce),
    "frozen gamma": lambda: (frozen(normed(nn.Tanh()), "1.weight"), IMAGES, ce),
    "frozen beta": lambda: (frozen(normed(nn.Tanh()), "1.bias"), IMAGES, ce),
    "frozen weights, trained biases": lambda: (frozen(mlp(), "0.weight", "2.weight", "4.weight"), ROWS, ce),
    "convolution's bias only": lambda: (frozen(conv(3), "0.weight", "2.weight"), IMAGES, ce),
    "gamma and beta only": lambda: (frozen(normed(nn.Tanh()), "0", "3"), IMAGES, ce),
    "last layer only": lambda: (frozen(mlp(), "0", "2"), ROWS, ce),
    "label smoothing": lambda: (mlp(), ROWS, lambda z: F.cross_entropy(z, TARGETS, label_smoothing=0.2)),
    "weighted classes": lambda: (
        mlp(), ROWS, nn.CrossEntropyLoss(torch.tensor([1, 2, 0.5]).double(), reduction="sum")),
    "soft targets": lambda: (mlp(), ROWS, lambda z: F.cross_entropy(z, HALVES)),
    "mean squared error": lambda: (mlp(), ROWS, nn.MSELoss()),
    "binary cross-entropy": lambda: (mlp(), ROWS,
                                     lambda z: F.binary_cross_entropy_with_logits(input=z, target=HALVES)),
    "l2": lambda: (normed(nn.ReLU()), IMAGES, ce, l2),
    "penalty of fourth order": lambda: (mlp(), ROWS, ce, quartic),
    "distance to other weights": lambda: (
        mlp(), ROWS, ce, lambda params: sum(F.mse_loss(p, p.detach() + 1) for p in params)),
}  # fmt: skip


def made(case):
    """The problem of a case; its losses of more than one argument get targets."""
    torch.manual_seed(0)
    network, inputs, loss, *penalty = CASES[case]()
    if isinstance(loss, nn.Module):
        module, targets = loss, TARGETS if isinstance(loss, nn.CrossEntropyLoss) else HALVES
        loss = lambda outputs: module(outputs, targets)  # noqa: E731
    return Problem(network.double(), inputs, loss, *penalty)


@cache
def derivatives(case):
    """The Hessian, the Gauss-Newton matrix and the gradient of a case, by torch."""
    problem = made(case)
    return problem.hessian(), problem.gauss_newton(), problem.gradient()


def spread(problem, curvature, parts):
    """A vector of all parameters from parts of those that the loss depends on; the others have 0."""
    part_of = {id(p): part for p, part in zip(curvature.params, parts, strict=True)}
    return flat([part_of.get(id(p), torch.zeros_like(p)) for p in problem.params])


def chosen(problem, curvature, vector):
    """The parts of a vector that belong to the parameters that the loss depends on."""
    parts = {id(p): part for p, part in zip(problem.params, problem.split(vector), strict=True)}
    return [parts[id(p)] for p in curvature.params]


@pytest.mark.quick_every(3)
@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_the_dense_matrices(case):
    problem = made(case)
    (H, G, g), n = derivatives(case), problem.weights().numel()
    vectors = [numbers(n, seed=1), numbers(n, seed=2)]
    for matrix, kind, short in (
        (H, "hessian", False),
        (H, "hessian", True),
        (G, "gauss_newton", False),
        (G, "gauss_newton", True),
    ):
        curvature = Curvature(problem.closure, problem.params, kind, quadratic_form_only=short)
        assert error(spread(problem, curvature, curvature.gradient), g) < 1e-11
        for v in vectors:
            parts = chosen(problem, curvature, v)
            assert curvature.quadratic_form(parts).item() == pytest.approx((v @ matrix @ v).item(), rel=1e-9)
            if not short:
                assert error(spread(problem, curvature, curvature.matvec(parts)), matrix @ v) < 1e-10
    with FastDoubleBackward():
        loss = problem.closure()
    for v in vectors:
        assert error(flat(hessian_vector_product(loss, problem.params, problem.split(v))), H @ v) < 1e-10


@pytest.mark.parametrize("case", ["mlp of tanh", "residual sum", "shared weights, unused weights"])
def test_products_need_no_trace(case):
    problem = made(case)
    v = numbers(problem.weights().numel(), seed=1)
    product = hessian_vector_product(problem.closure(), problem.params, problem.split(v), retain_graph=False)
    assert error(flat(product), derivatives(case)[0] @ v) < 1e-10


@pytest.mark.parametrize("case", ["mlp of tanh", "residual sum", "two outputs, two losses", "penalty of fourth order"])
@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("short", [False, True])
def test_a_block_is_that_of_the_dense_matrix(case, kind, short):
    problem = made(case)
    matrix = derivatives(case)[kind == "gauss_newton"]
    curvature = Curvature(problem.closure, problem.params, kind, quadratic_form_only=short)
    first = 0
    for i, p in enumerate(problem.params):
        places = slice(first, first := first + p.numel())
        v, block = numbers(p.numel(), seed=i), matrix[places, places]
        one = curvature.block(i)
        # where a bias comes before batch norm its gradient and block are 0
        assert one.quadratic_form([v.view_as(p)]).item() == pytest.approx((v @ block @ v).item(), rel=1e-9, abs=1e-13)
        if not short:
            torch.testing.assert_close(flat(one.matvec([v.view_as(p)])), block @ v, rtol=1e-9, atol=1e-13)
        assert torch.equal(one.gradient[0], curvature.gradient[i])


TIMM = {
    "test_vit": {"img_size": 32},
    "test_resnet": {},
    "test_efficientnet": {},
    "test_nfnet": {},
    "mobilenetv2_035": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_products_of_networks_of_timm_are_those_of_autograd(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3, **TIMM[name]).double()
    problem = Problem(network, numbers(6, 3, 32, 32), ce)
    n = problem.weights().numel()
    v = numbers(n, seed=1)
    Hv = problem.hessian_times(v)
    curvature = Curvature(problem.closure, problem.params)
    assert error(spread(problem, curvature, curvature.matvec(chosen(problem, curvature, v))), Hv) < 1e-8
    short = Curvature(problem.closure, problem.params, quadratic_form_only=True)
    assert short.quadratic_form(chosen(problem, short, v)).item() == pytest.approx((v @ Hv).item(), rel=1e-8)
