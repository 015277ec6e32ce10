"""The loss that a closure computes, and derivatives of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.autograd.graph import GradientEdge

from ..compat_torch import advice_for_second_derivative, is_second_backward
from ..shard import WHOLE, Shard
from .backward_recorder import NO_BACKWARD
from .double_backward_mode import FastDoubleBackward

NO_GRAPH = (
    "give a closure that returns the loss, or call loss.backward(create_graph=True) before; in Lightning's manual"
    " optimization, self.manual_backward(loss, create_graph=True)"
)


class LossWithoutGraph(ValueError):
    """What a closure returned is not the loss with its graph.

    Attributes:
        loss: what it returned.
    """

    def __init__(self, loss: Any):
        super().__init__("the closure must return the loss with its graph: a scalar that depends on the weights")
        self.loss = loss


def check_loss(loss: Any) -> None:
    """Raises LossWithoutGraph if a loss has no graph, and ValueError if it has several elements."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise LossWithoutGraph(loss)
    if loss.numel() != 1:
        raise ValueError(f"the loss must be a scalar, and has the shape {tuple(loss.shape)}; give its mean or sum")


def evaluate(
    closure: Callable[[], Tensor],
    kind: str,
    quadratic_form_only: bool = False,
    keep_statistics: bool = False,
    inner: AbstractContextManager | None = None,
    backward_of: Sequence[Tensor] | None = None,
    shard: Shard = WHOLE,
) -> tuple[Tensor, FastDoubleBackward]:
    """Returns a closure's loss, and the mode that it was computed in.

    Args:
        closure: as for `Curvature`.
        kind: as for `Curvature`.
        quadratic_form_only: as for `Curvature`.
        keep_statistics: as for `Curvature`.
        inner: a context that is entered inside the mode.
        backward_of: parameters, where the closure may call backward once and return no loss with a graph, as those of
            Lightning do. The loss is then the one that backward was called on.
        shard: as for `Curvature`.

    Raises:
        LossWithoutGraph: the loss has no graph.
        ValueError: the closure called backward and returned the loss with its graph all the same; or for Gauss-Newton,
            it called none of the loss functions.
    """
    is_short = quadratic_form_only and kind == "hessian"
    splits = is_short or kind == "gauss_newton"
    mode = FastDoubleBackward(splits, keep_statistics, is_short, backward_of, shares_batch=not shard.is_whole)
    with torch.enable_grad(), mode, inner or nullcontext():
        loss = closure()
    loss = mode.loss_of_closure(loss)
    check_loss(loss)
    if kind == "gauss_newton" and not mode.outputs:
        raise ValueError(
            "curvature=gauss_newton: the closure must call a loss function of torch.nn.functional"
            " (cross_entropy, mse_loss, ...) on the network's outputs"
        )
    return loss, mode


def gradient_with_graph(loss: Tensor, inputs: Sequence[Tensor | GradientEdge]) -> Sequence[Tensor | None]:
    """Returns the gradient, None where the loss does not depend on an input.

    Raises:
        ValueError: `backward` was called on the loss before.
    """
    try:
        return grad(loss, inputs, create_graph=True, allow_unused=True)  # type: ignore[arg-type]
    except RuntimeError as error:
        if is_second_backward(error):
            raise ValueError(NO_BACKWARD) from error
        raise


@contextmanager
def second_derivative() -> Iterator[None]:
    """A context that differentiates a gradient.

    Raises:
        ValueError: something that the loss was computed by has no second derivative; it says what to do.
    """
    try:
        yield
    except RuntimeError as error:
        advice = advice_for_second_derivative(error)
        if advice is None:
            raise
        raise ValueError(advice) from error
