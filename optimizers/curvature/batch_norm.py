"""Batch norm in training mode, with a second derivative of few passes (see second_backward.py).

With x^ = (x - mean) r, r = (variance + eps)^(-1/2), y = gamma x^ + beta, means over the n values of a channel,
and g = dL/dy, everything below is a linear combination of g, x and x' with one coefficient a channel. They follow
from x^' = r (x' - m - s x^), with m = mean(x') and s = mean(x' x^), by differentiating once more.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .double_backward import Sweep

aten = torch.ops.aten


class BatchNorm(Function):
    """x (B, C, ...) to the same shape, normalised by the statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        sweep: Sweep,
    ) -> Tensor:
        """Returns gamma x^ + beta; the running statistics are updated where there are some."""
        ctx.set_materialize_grads(False)
        y, mean, r = aten.native_batch_norm(x, gamma, beta, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, gamma, mean, r)
        ctx.eps, ctx.sweep = eps, sweep
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, gamma and beta."""
        if g is None:
            return (None,) * 8
        x, gamma, mean, r = ctx.saved_tensors
        gx, ggamma, gbeta = _BatchNormBackward.apply(g, x, gamma, mean, r, ctx.eps, ctx.sweep)
        wanted = ctx.needs_input_grad
        return gx, ggamma if wanted[1] else None, gbeta if wanted[2] else None, *(None,) * 5


class _BatchNormBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, eps: float, sweep: Sweep
    ) -> tuple:
        ctx.set_materialize_grads(False)
        gx, g_xhat, g_sum = _backward(g, x, gamma, mean, r, eps)
        ctx.save_for_backward(g, x, gamma, mean, r)
        ctx.sums = g_xhat.detach(), g_sum.detach()
        ctx.eps, ctx.sweep = eps, sweep
        return gx, g_xhat, g_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dgamma: Tensor | None, dbeta: Tensor | None) -> tuple:
        g, x, gamma, mean, r = ctx.saved_tensors
        g_xhat, g_sum = ctx.sums  # sums over a channel of g x^ and g
        n, eps, wanted = x.numel() // x.shape[1], ctx.eps, ctx.sweep.wanted
        scale = torch.ones_like(r) if gamma is None else gamma

        if dx is None:
            tangent = None
            m = s = g_dx = torch.zeros_like(r)
        else:
            tangent, s, m = _backward(dx, x, gamma, mean, r, eps)  # the Jacobian is its own transpose
            m, s = m / n, s / n
        slope = torch.zeros_like(r) if dgamma is None else dgamma
        if dgamma is not None or dbeta is not None:
            constant = -slope * r * mean if dbeta is None else dbeta - slope * r * mean
            if tangent is None:
                tangent = torch.addcmul(_wide(constant, x), x, _wide(slope * r, x))
            else:
                tangent.addcmul_(x, _wide(slope * r, x)).add_(_wide(constant, x))
        if wanted == "tangent":
            return tangent, *(None,) * 6

        if dx is not None:
            g_dx = _product_sums(g, dx, m, eps)  # the sum of g (x' - m)
        g_dxhat = r * (g_dx - s * g_xhat)  # the sum of g x^'
        if wanted == "curvature":
            if dx is not None:
                variance = _product_sums(dx, dx, m, eps) / n
                g_ddxhat = r * r * (g_xhat * (3 * s * s - variance) - 2 * s * g_dx)
                ctx.sweep.curvature += (2 * slope * g_dxhat + scale * g_ddxhat).sum()
            return tangent, *(None,) * 6

        at_g = r * (slope - scale * r * s)
        at_xhat = -at_g * g_xhat / n - scale * r * (g_dxhat - r * s * g_xhat) / n
        constant = -at_g * g_sum / n - at_xhat * r * mean
        sx = (g * _wide(at_g, x)).addcmul_(x, _wide(at_xhat * r, x))
        if dx is not None:
            at_dx = -scale * r * r * g_xhat / n
            sx.addcmul_(dx, _wide(at_dx, x))
            constant = constant - at_dx * m
        return tangent, sx.add_(_wide(constant, x)), None if gamma is None else g_dxhat, *(None,) * 4


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Returns one value a channel, to be used with (B, C, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _backward(g: Tensor, x: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, eps: float) -> tuple:
    """Returns gamma r (g - mean(g) - x^ mean(g x^)), sum(g x^) and sum(g)."""
    return aten.native_batch_norm_backward(g, x, gamma, None, None, mean, r, True, eps, [True, True, True])


def _product_sums(a: Tensor, b: Tensor, center: Tensor, eps: float) -> Tensor:
    """Returns the sums over a channel of a (b - center), in one pass."""
    one = torch.ones_like(center)
    return aten.native_batch_norm_backward(a, b, None, None, None, center, one, True, eps, [False, True, False])[1]
