"""Closures that call backward, as Lightning's do: which loss they call it on."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

NO_BACKWARD = "the closure must return the loss without calling backward"


class BackwardRecorder(TorchFunctionMode):
    """A context in which `Tensor.backward` fills `.grad` as ever, and keeps the graph of the loss.

    Args:
        params: parameters to optimize, whose gradients must be clear when backward is called. None: calls are not
            looked at.

    Attributes:
        loss_of_backward: the loss that backward was called on, with its graph; None: it was not called.
        outputs: pairs of a tensor and of its copy, at which a graph ends; backward goes on from the copy to the tensor.
    """

    def __init__(self, params: Sequence[Tensor] | None):
        super().__init__()
        self._params = params
        self.loss_of_backward: Tensor | None = None
        self.outputs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward and self._params is not None:
            return self._backward(self._params, *args, **kwargs)
        return func(*args, **kwargs)

    def loss_of_closure(self, returned: Any) -> Any:
        """Returns the loss that backward was called on, or what a closure returned where it was not called.

        Raises:
            ValueError: backward was called, and the loss returned with its graph all the same.
        """
        if self.loss_of_backward is None:
            return returned
        if isinstance(returned, Tensor) and returned.requires_grad:
            raise ValueError(NO_BACKWARD)
        return self.loss_of_backward

    def _backward(self, params: Sequence[Tensor], loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Calls `backward` once, on through the outputs, at whose copies it would end.

        Raises:
            ValueError: it was called before, or there are gradients that it would add to.
        """
        if self.loss_of_backward is not None:
            raise ValueError("the closure calls backward twice; call it on the sum of the losses")
        if any(p.grad is not None and bool(p.grad.any()) for p in params):
            raise ValueError("the closure adds to gradients of another batch, whose curvature is not known; clear them")
        call = inspect.signature(Tensor.backward).bind(loss, *args, **kwargs)
        weight, inputs = call.arguments.get("gradient"), call.arguments.get("inputs")
        copies = [copy for _, copy in self.outputs]
        reached = None if inputs is None else [*([inputs] if isinstance(inputs, Tensor) else inputs), *copies]
        Tensor.backward(loss, weight, retain_graph=True, inputs=reached)
        for outputs, copy in self.outputs:
            if copy.grad is not None:
                outputs.backward(copy.grad, retain_graph=True, inputs=inputs)
        self.loss_of_backward = loss if weight is None else (weight * loss).sum()
