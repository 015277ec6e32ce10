"""Layers whose second derivatives cost what the operations in them cost.

Differentiating a gradient, as autograd does it, composes the second derivative of batch norm of about thirty
passes over its input, that of a convolution of transposed copies, and lets zeros flow back from a ReLU. The
functions here compute the same numbers with as few passes as the formulas need.

Of a layer y = f(x, w) with the loss's derivative g = dL/dy, and tangents x', w' of a direction in the weights:

    y'  = Df(x, w) [x', w']                  the tangent that goes on to the next layer
    s   = grad_(x, w) <g, y'>                what the layer adds to a product with the Hessian
    c   = <g, D2f(x, w) [x', w'][x', w']>    what it adds to the curvature along the direction

A `Sweep` says which of them are wanted.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


@dataclass(slots=True)
class Sweep:
    """What is wanted of the layers: "product" y' and s, "curvature" y' and c, "tangent" y' alone.

    The layers of a graph share one, which holds nothing of the graph: that would be a cycle that is never freed.
    """

    wanted: str = "product"
    curvature: Tensor | float = 0.0  # the sum of c so far


def _sum(*terms: Tensor | None) -> Tensor | None:
    """Adds what is there."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


class Convolution(Function):
    """x (B, C, ...) and w (C', C / groups, ...) to (B, C', ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, options: tuple, sweep: Sweep) -> Tensor:
        """Returns the convolution; `options` are stride, padding, dilation and groups."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.options, ctx.sweep = options, sweep
        return convolution(x, w, b, options)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, w and b."""
        if g is None:
            return (None,) * 5
        x, w = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return *_ConvolutionBackward.apply(g, x, w, wanted, ctx.options, ctx.sweep), None, None


class _ConvolutionBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, wanted: tuple, options: tuple, sweep: Sweep) -> tuple:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.wanted, ctx.options, ctx.sweep = wanted, options, sweep
        return convolution_backward(g, x, w, wanted, options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> tuple:
        g, x, w = ctx.saved_tensors
        options, sweep = ctx.options, ctx.sweep
        tangent = None if dx is None else convolution(dx, w, db, options)
        if dw is not None:
            part = convolution(x, dw, db if dx is None else None, options)
            tangent = part if tangent is None else tangent.add_(part)
        if tangent is None and db is not None:
            tangent = db.view(1, -1, *[1] * (g.dim() - 2)).expand_as(g)
        sx = sw = None
        if sweep.wanted == "product":
            at_x = dw is not None and ctx.wanted[0]
            at_w = dx is not None and ctx.wanted[1]
            if at_x or at_w:
                sx, sw, _ = convolution_backward(
                    g, x if dx is None else dx, w if dw is None else dw, (at_x, at_w, False), options
                )
        elif sweep.wanted == "curvature" and dx is not None and dw is not None:
            _, sw, _ = convolution_backward(g, dx, dw, (False, True, False), options)
            sweep.curvature += 2 * (sw * dw).sum()
            sw = None
        return tangent, sx, sw, None, None, None


def convolution(x: Tensor, w: Tensor, b: Tensor | None, options: tuple) -> Tensor:
    """Returns the convolution of x with w."""
    stride, padding, dilation, groups = options
    return aten.convolution(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)


def convolution_backward(g: Tensor, x: Tensor, w: Tensor, wanted: tuple, options: tuple) -> tuple:
    """Returns its gradients with respect to x, w and the bias, None where not wanted."""
    stride, padding, dilation, groups = options
    sizes = [w.shape[0]] if wanted[2] else None
    nothing = [0] * len(stride)
    return aten.convolution_backward(g, x, w, sizes, stride, padding, dilation, False, nothing, groups, list(wanted))


class Linear(Function):
    """x (..., in) and w (out, in) to (..., out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, sweep: Sweep) -> Tensor:
        """Returns x w^T + b."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.sweep = sweep
        return aten.linear(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, w and b."""
        if g is None:
            return (None,) * 4
        x, w = ctx.saved_tensors
        return *_LinearBackward.apply(g, x, w, ctx.needs_input_grad[:3], ctx.sweep), None


class _LinearBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, wanted: tuple, sweep: Sweep) -> tuple:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.wanted, ctx.sweep = wanted, sweep
        rows = g.reshape(-1, g.shape[-1])
        gx = g @ w if wanted[0] else None
        gw = rows.t() @ x.reshape(-1, x.shape[-1]) if wanted[1] else None
        return gx, gw, rows.sum(0) if wanted[2] else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> tuple:
        g, x, w = ctx.saved_tensors
        tangent = _sum(
            None if dx is None else aten.linear(dx, w, db),
            None if dw is None else aten.linear(x, dw, db if dx is None else None),
        )
        if tangent is None and db is not None:
            tangent = db.expand_as(g)
        sx = sw = None
        if ctx.sweep.wanted == "product":
            sx = g @ dw if dw is not None and ctx.wanted[0] else None
            sw = _outer(g, dx) if dx is not None and ctx.wanted[1] else None
        elif ctx.sweep.wanted == "curvature" and dx is not None and dw is not None:
            ctx.sweep.curvature += 2 * (_outer(g, dx) * dw).sum()
        return tangent, sx, sw, None, None


def _outer(g: Tensor, x: Tensor) -> Tensor:
    """Returns the gradient (out, in) with respect to the weights."""
    return g.reshape(-1, g.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


class PiecewiseLinear(Function):
    """An activation whose derivative is a constant on either side of each kink: no s and no c."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, slope: Any, inplace: bool) -> Tensor:
        """Returns function(x), into x if `inplace`; slope(g, y) multiplies g by the derivative where y is."""
        ctx.set_materialize_grads(False)
        y = function(x)
        if inplace:
            y = x.copy_(y)
            ctx.mark_dirty(y)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradient with respect to x."""
        if g is None:
            return (None,) * 4
        return _Slope.apply(g, ctx.saved_tensors[0].detach(), ctx.slope), None, None, None


class _Slope(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor, slope: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return slope(g, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None) -> tuple:
        return None if dx is None else ctx.slope(dx, ctx.saved_tensors[0]), None, None


class MaxPool2d(Function):
    """The largest of each window, (B, C, H, W) -> (B, C, H', W'): no s and no c."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple) -> Tensor:
        """Returns the maxima; `options` are size, stride, padding, dilation and ceil_mode of the windows."""
        ctx.set_materialize_grads(False)
        y, places = aten.max_pool2d_with_indices(x, *options)
        ctx.save_for_backward(places)
        ctx.like, ctx.options = x.new_empty(()).expand_as(x), options
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradient with respect to x."""
        if g is None:
            return None, None
        return _MaxPool2dBackward.apply(g, ctx.saved_tensors[0], ctx.like, ctx.options), None


class _MaxPool2dBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, places: Tensor, like: Tensor, options: tuple) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(places)
        return aten.max_pool2d_with_indices_backward(g, like, *options, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None) -> tuple:
        (places,) = ctx.saved_tensors
        if dx is None:
            return (None,) * 4
        return dx.flatten(2).gather(2, places.flatten(2)).view_as(places), None, None, None
