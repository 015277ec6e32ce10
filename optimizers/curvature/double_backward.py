"""Layers whose second derivatives take as few passes over memory as the formulas need.

Autograd differentiates a gradient by composition: the second derivative of batch norm takes about thirty passes over
its input, that of a convolution makes transposed copies, and zeros flow back from a ReLU. The functions here compute
the same numbers.

For a layer y = f(x, w), the loss's derivative g = dL/dy, and tangents x', w' of a direction in the weights:

    y'  = Df(x, w) [x', w']                  the tangent, which the next layer gets
    s   = grad_(x, w) <g, y'>                the layer's term of a product with the Hessian
    c   = <g, D2f(x, w) [x', w'][x', w']>    the layer's term of the quadratic form of the Hessian

A `BackwardRequest` names the quantity that a backward pass computes.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

aten = torch.ops.aten


Quantity = Literal["product", "quadratic_form", "tangent"]


@dataclass(slots=True)
class BackwardRequest:
    """What the layers compute in a backward pass through a gradient; all layers of a graph share one request.

    It holds nothing of the graph: that would be a reference cycle, which only the garbage collector frees.

    Attributes:
        quantity: "product": y' and s; "quadratic_form": y' and c; "tangent": y' alone.
        quadratic_form: the sum of c over the layers that the pass has reached.
    """

    quantity: Quantity = "product"
    quadratic_form: Tensor | float = 0.0


def _sum(*terms: Tensor | None) -> Tensor | None:
    """Returns the sum of the terms that are not None; None where all are."""
    total = None
    for term in terms:
        if term is not None:
            total = term if total is None else total + term
    return total


class Convolution(Function):
    """x (B, C, ...) and w (C', C / groups, ...) to (B, C', ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, options: tuple, request: BackwardRequest) -> Tensor:
        """Returns the convolution; `options` are stride, padding, dilation and groups."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.options, ctx.request = options, request
        return convolution(x, w, b, options)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, w and b."""
        if g is None:
            return (None,) * 5
        x, w = ctx.saved_tensors
        needs = ctx.needs_input_grad[:3]
        return *_ConvolutionBackward.apply(g, x, w, needs, ctx.options, ctx.request), None, None


class _ConvolutionBackward(Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, needs: tuple, options: tuple, request: BackwardRequest
    ) -> tuple:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.needs, ctx.options, ctx.request = needs, options, request
        return convolution_backward(g, x, w, needs, options)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None, dw: Tensor | None, db: Tensor | None) -> tuple:
        g, x, w = ctx.saved_tensors
        options, request = ctx.options, ctx.request
        tangent = None if dx is None else convolution(dx, w, db, options)
        if dw is not None:
            part = convolution(x, dw, db if dx is None else None, options)
            tangent = part if tangent is None else tangent.add_(part)
        if tangent is None and db is not None:
            tangent = db.view(1, -1, *[1] * (g.dim() - 2)).expand_as(g)
        sx = sw = None
        if request.quantity == "product":
            at_x = dw is not None and ctx.needs[0]
            at_w = dx is not None and ctx.needs[1]
            if at_x or at_w:
                sx, sw, _ = convolution_backward(
                    g, x if dx is None else dx, w if dw is None else dw, (at_x, at_w, False), options
                )
        elif request.quantity == "quadratic_form" and dx is not None and dw is not None:
            _, sw, _ = convolution_backward(g, dx, dw, (False, True, False), options)
            request.quadratic_form += 2 * (sw * dw).sum()
            sw = None
        return tangent, sx, sw, None, None, None


def convolution(x: Tensor, w: Tensor, b: Tensor | None, options: tuple) -> Tensor:
    """Returns the convolution of x with w."""
    stride, padding, dilation, groups = options
    return aten.convolution(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)


def convolution_backward(g: Tensor, x: Tensor, w: Tensor, needs: tuple, options: tuple) -> tuple:
    """Returns the convolution's gradients with respect to x, w and b; None for those that are not needed."""
    stride, padding, dilation, groups = options
    sizes = [w.shape[0]] if needs[2] else None
    nothing = [0] * len(stride)
    return aten.convolution_backward(g, x, w, sizes, stride, padding, dilation, False, nothing, groups, list(needs))


class Linear(Function):
    """x (..., in) and w (out, in) to (..., out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, request: BackwardRequest) -> Tensor:
        """Returns x w^T + b."""
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.request = request
        return aten.linear(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple:
        """Returns the gradients with respect to x, w and b."""
        if g is None:
            return (None,) * 4
        x, w = ctx.saved_tensors
        return *_LinearBackward.apply(g, x, w, ctx.needs_input_grad[:3], ctx.request), None


class _LinearBackward(Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, needs: tuple, request: BackwardRequest) -> tuple:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.needs, ctx.request = needs, request
        rows = g.reshape(-1, g.shape[-1])
        gx = g @ w if needs[0] else None
        gw = rows.t() @ x.reshape(-1, x.shape[-1]) if needs[1] else None
        return gx, gw, rows.sum(0) if needs[2] else None

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
        if ctx.request.quantity == "product":
            sx = g @ dw if dw is not None and ctx.needs[0] else None
            sw = _outer(g, dx) if dx is not None and ctx.needs[1] else None
        elif ctx.request.quantity == "quadratic_form" and dx is not None and dw is not None:
            ctx.request.quadratic_form += 2 * (_outer(g, dx) * dw).sum()
        return tangent, sx, sw, None, None


def _outer(g: Tensor, x: Tensor) -> Tensor:
    """Returns the gradient (out, in) with respect to the weights."""
    return g.reshape(-1, g.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


class PiecewiseLinear(Function):
    """A piecewise linear activation: s = 0 and c = 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, slope: Any, inplace: bool) -> Tensor:
        """Returns function(x), written into x if `inplace`; slope(g, y) is g times the derivative at output y."""
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
    """Max-pooling, (B, C, H, W) -> (B, C, H', W'): s = 0 and c = 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, options: tuple) -> Tensor:
        """Returns the maxima; `options` are size, stride, padding, dilation and ceil_mode of the windows."""
        ctx.set_materialize_grads(False)
        y, indices = aten.max_pool2d_with_indices(x, *options)
        ctx.save_for_backward(indices)
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
    def forward(ctx: Any, g: Tensor, indices: Tensor, like: Tensor, options: tuple) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(indices)
        return aten.max_pool2d_with_indices_backward(g, like, *options, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor | None) -> tuple:
        (indices,) = ctx.saved_tensors
        if dx is None:
            return (None,) * 4
        return dx.flatten(2).gather(2, indices.flatten(2)).view_as(indices), None, None, None
