"""Losses of a network's weights, in float64, with dense derivatives: what curvature must agree with."""

import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian, vhp
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

# what EHNewton says of a step, beside what is counted
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


def flat(tensors):
    """A copy as one vector."""
    return torch.cat([t.detach().reshape(-1) for t in tensors])


class Problem:
    """loss(outputs of the network) + penalty(weights): as a closure, and as a function of one vector of weights.

    The derivatives of the latter are torch's, of all the weights at once, and know nothing of a Trace.
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


def error(found, expected):
    """The norm of the difference, relative to that of what is expected."""
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))
