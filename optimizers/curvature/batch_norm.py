"""Batch norm in training mode, with a second derivative that takes few passes (see double_backward.py).

    x^ = (x - mean) r,  r = (variance + eps)^(-1/2),  y = gamma x^ + beta

Means are over the n values of a channel, and g = dL/dy. All results below are linear combinations of g, x and the
tangent x' with one coefficient a channel. They are the derivatives of

    x^' = r (x' - m - s x^),  m = mean(x'),  s = mean(x' x^)
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .double_backward import BackwardRequest

aten = torch.ops.aten


class BatchNorm(Function):
    """x (B, C, ...) to the same shape, normalized by the statistics of the batch."""

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
        request: BackwardRequest,
    ) -> Tensor:
        """Returns gamma x^ + beta, and updates the running statistics that are not None."""
        ctx.set_materialize_grads(False)
        y, mean, r = aten.native_batch_norm(x, gamma, beta, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, gamma, mean, r)
        ctx.eps, ctx.request = eps, request
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, gamma and beta."""
        if g is None:
            return (None,) * 8
        x, gamma, mean, r = ctx.saved_tensors
        gx, ggamma, gbeta = _BatchNormBackward.apply(g, x, gamma, mean, r, ctx.eps, ctx.request)
        needs = ctx.needs_input_grad
        return gx, ggamma if needs[1] else None, gbeta if needs[2] else None, *(None,) * 5


class _BatchNormBackward(Function):
    @staticmethod
    def forward(
        ctx: Any,
        g: Tensor,
        x: Tensor,
        gamma: Tensor | None,
        mean: Tensor,
        r: Tensor,
        eps: float,
        request: BackwardRequest,
    ) -> tuple:
        ctx.set_materialize_grads(False)
        gx, g_xhat, g_sum = _backward(g, x, gamma, mean, r, eps)
        ctx.save_for_backward(g, x, gamma, mean, r)
        ctx.sums = g_xhat.detach(), g_sum.detach()
        ctx.eps, ctx.request = eps, request
        return gx, g_xhat, g_sum

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dgamma: Tensor | None, dbeta: Tensor | None) -> tuple:
        g, x, gamma, mean, r = ctx.saved_tensors
        g_xhat, g_sum = ctx.sums  # sums over a channel of g x^ and g
        n, eps, quantity = x.numel() // x.shape[1], ctx.eps, ctx.request.quantity
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
                tangent = torch.addcmul(_per_channel(constant, x), x, _per_channel(slope * r, x))
            else:
                tangent.addcmul_(x, _per_channel(slope * r, x)).add_(_per_channel(constant, x))
        if quantity == "tangent":
            return tangent, *(None,) * 6

        if dx is not None:
            g_dx = _product_sums(g, dx, m, eps)  # the sum of g (x' - m)
        g_dxhat = r * (g_dx - s * g_xhat)  # the sum of g x^'
        if quantity == "quadratic_form":
            if dx is not None:
                variance = _product_sums(dx, dx, m, eps) / n
                g_ddxhat = r * r * (g_xhat * (3 * s * s - variance) - 2 * s * g_dx)
                ctx.request.quadratic_form += (2 * slope * g_dxhat + scale * g_ddxhat).sum()
            return tangent, *(None,) * 6

        at_g = r * (slope - scale * r * s)
        at_xhat = -at_g * g_xhat / n - scale * r * (g_dxhat - r * s * g_xhat) / n
        constant = -at_g * g_sum / n - at_xhat * r * mean
        sx = (g * _per_channel(at_g, x)).addcmul_(x, _per_channel(at_xhat * r, x))
        if dx is not None:
            at_dx = -scale * r * r * g_xhat / n
            sx.addcmul_(dx, _per_channel(at_dx, x))
            constant = constant - at_dx * m
        return tangent, sx.add_(_per_channel(constant, x)), None if gamma is None else g_dxhat, *(None,) * 4


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Returns values (C,) in the shape (1, C, 1, ...), which broadcasts to `like` (B, C, ...)."""
    return values.view(1, -1, *[1] * (like.dim() - 2))


def _backward(g: Tensor, x: Tensor, gamma: Tensor | None, mean: Tensor, r: Tensor, eps: float) -> tuple:
    """Returns gamma r (g - mean(g) - x^ mean(g x^)), sum(g x^) and sum(g)."""
    gamma = torch.ones_like(r) if gamma is None else gamma  # the kernels of GPUs take their outputs' type from it
    return aten.native_batch_norm_backward(g, x, gamma, None, None, mean, r, True, eps, [True, True, True])


def _product_sums(a: Tensor, b: Tensor, center: Tensor, eps: float) -> Tensor:
    """Returns the sums over a channel of a (b - center), in one pass."""
    one = torch.ones_like(center)
    return aten.native_batch_norm_backward(a, b, one, None, None, center, one, True, eps, [False, True, False])[1]
