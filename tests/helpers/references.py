"""Independent references: dense derivatives in float64, and gradients of each sample by a backward pass of its own."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian, vhp
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)
# torch warns of the cycle from a parameter to its gradient's graph, which step() ends
of_cycles = pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True:UserWarning")
# the keys of EHNewton's `last_step`, without its counters
OF_A_STEP = {
    "cg_iterations",
    "residual",
    "fallbacks",
    "negative_curvature",
    "directional_derivative",
    "step_length",
}


def numbers(*shape, seed=0):
    """Normal numbers that depend on nothing else."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def parameter(*values):
    """A vector that is trained, in float64."""
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def flat(tensors):
    """A copy as one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Problem:
    """loss(outputs of the network) + penalty(weights): as a closure, and as a function of one vector of weights.

    The derivatives of the latter are torch's, of all the weights at once, and do not use FastDoubleBackward.
    """

    def __init__(self, network, inputs, loss, penalty=None):
        self.network, self.inputs, self.loss = network, inputs, loss
        self.penalty = penalty or (lambda params: 0.0)
        self.named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.params = list(self.named.values())

    def closure(self):
        return self.loss(self.network(self.inputs)) + self.penalty(self.params)

    def weights(self):
        return flat(self.params)

    def split(self, vector):
        pieces = vector.split([p.numel() for p in self.params])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.params, strict=True)]

    def outputs_of(self, vector):
        """The outputs, one tensor or several."""
        weights = dict(zip(self.named, self.split(vector), strict=True))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return functional_call(self.network, weights, self.inputs)

    def of(self, vector):
        return self.loss(self.outputs_of(vector)) + self.penalty(self.split(vector))

    def gradient(self):
        return jacobian(self.of, self.weights())

    def hessian(self):
        return hessian(self.of, self.weights())

    def hessian_times(self, vector):
        """The Hessian times a vector, where the whole of it is too large."""
        return vhp(self.of, self.weights(), vector)[1]

    def gauss_newton(self):
        """J^T L J, written out, and the Hessian of the penalty."""
        outputs = self.outputs_of(self.weights())
        several = isinstance(outputs, tuple)
        parts = outputs if several else (outputs,)
        shapes = [part.shape for part in parts]

        def joined(vector):
            outputs = self.outputs_of(vector)
            return torch.cat([part.reshape(-1) for part in (outputs if several else (outputs,))])

        def loss_at(vector):
            pieces = vector.split([shape.numel() for shape in shapes])
            parts = tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))
            return self.loss(parts if several else parts[0])

        J = jacobian(joined, self.weights())
        L = hessian(loss_at, joined(self.weights()).detach())
        zero = 0 * self.weights().sum()
        R = hessian(lambda w: zero + 0 * w.sum() + self.penalty(self.split(w)), self.weights())
        return J.T @ L @ J + R


def bowl(params):
    """A penalty that makes Hessians of small networks positive definite, and g.p large."""
    return 2 * sum(((p - 2) ** 2).sum() for p in params)


def buffers(network):
    """A copy of the buffers by name."""
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


TARGETS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1])


def classifier(dtype=torch.float64):
    """A classifier of eight inputs with TARGETS; the same each time."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    return Problem(network, numbers(8, 5).to(dtype), lambda z: F.cross_entropy(z, TARGETS))


class Flatten(nn.Sequential):
    """Layers, then the mean over places."""

    def forward(self, x):
        y = super().forward(x)
        return y.flatten(2).mean(2)


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.layers(x)


def error(actual, expected):
    """The norm of the difference, relative to that of what is expected."""
    return float(torch.linalg.vector_norm(actual - expected) / torch.linalg.vector_norm(expected))


class PerSample(nn.Module):
    """A layer with a copy of its parameters for each sample; its outputs are the same."""

    def __init__(self, layer, samples):
        super().__init__()
        self.layer = layer
        self.copies = {
            name: p.detach().expand(samples, *p.shape).clone().requires_grad_() for name, p in layer.named_parameters()
        }

    def forward(self, x):
        if isinstance(self.layer, NORMS):
            return self.normalized(x)
        each = [{name: c[i] for name, c in self.copies.items()} for i in range(len(x))]
        return torch.cat([functional_call(self.layer, each[i], (x[i : i + 1],)) for i in range(len(x))])

    def normalized(self, x):
        """Statistics of the whole batch, then the weights of each sample."""
        plain = {"weight": torch.ones_like(self.layer.weight), "bias": torch.zeros_like(self.layer.bias)}
        act = getattr(self.layer, "act", nn.Identity())  # of timm's norms, after the weights
        layer = copy.deepcopy(self.layer)
        if hasattr(layer, "act"):
            layer.act = nn.Identity()
        y = functional_call(layer, plain, (x,))
        w, b = self.copies["weight"], self.copies["bias"]
        if isinstance(layer, nn.LayerNorm) and type(layer) is nn.LayerNorm:
            between = (1,) * (y.dim() - w.dim())
            w, b = (t.view(len(x), *between, *t.shape[1:]) for t in (w, b))
        else:
            w, b = (t.view(*t.shape, *(1,) * (y.dim() - 2)) for t in (w, b))
        return act(y * w + b)


def expected_gram(network, loss_function, inputs, targets):
    """J J^T, with row_i = B times the gradient with respect to sample i's copy of all that is trained."""
    twin = copy.deepcopy(network)
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    replaced = {}
    for path, parent in list(twin.named_modules()):
        for name, child in list(parent.named_children()):
            if list(child.parameters(recurse=False)):
                if child not in replaced:
                    full = f"{path}.{name}" if path else name
                    replaced[child] = PerSample(child, len(inputs)), full
                setattr(parent, name, replaced[child][0])
    loss = loss_function(twin(inputs), targets)
    copies = [c for layer, path in replaced.values() for name, c in layer.copies.items() if f"{path}.{name}" in trained]
    rows = torch.cat([g.flatten(1) for g in torch.autograd.grad(loss, copies)], 1) * len(inputs)
    assert rows.shape[1] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    return rows @ rows.T


def close(actual, expected, rtol=1e-9):
    """Within rtol of the largest entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=rtol * float(expected.abs().max()))


def rows_of(network, losses):
    """A row of gradients for each of the losses, by one backward pass each."""
    params = [p for p in network.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def rows_of_samples(network, loss_function, inputs, targets):
    """The gradient of each sample's loss, from a pass of its own."""
    pairs = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(len(inputs))]
    return torch.cat([rows_of(network, [loss_function(network(x), y)]) for x, y in pairs])


def closure_of(optimizer, loss):
    """The closure that an optimizer of ours asks for."""

    def closure():
        if getattr(optimizer, "needs_graph", False):
            return loss()
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def step(optimizer, loss):
    """Makes a step of an optimizer of ours."""
    return optimizer.step(closure_of(optimizer, loss))
