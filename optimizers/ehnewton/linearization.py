"""The loss of a step, its gradient, and what products with the curvature need."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from ..checked import has_graph
from ..curvature.curvature import Curvature
from ..curvature.loss import LossWithoutGraph, check_loss, evaluate
from ..preconditioners.layers import LayerCall, LayerRecorder
from ..shard import Shard
from .softmax_recorder import SoftmaxHeadRecorder, may_be_classifiers
from .softmax_systems import SoftmaxSystem, softmax_systems

BACKWARD_COST = 2 / 3  # of a pass, in gradients


class Linearization:
    """The gradient at the current weights, and the curvature or a closed form.

    Args:
        options: of all groups.
        closure: as of `Step`.
        trained: parameters.
        shard: the part of the batch that this process has.
        loss_scale: as of `Step`.
        reads: as of `Step`.
        share: of the batch, which the curvature is of.
        has_products: whether vectors are multiplied by the curvature.
        is_one_group: whether all parameters have the same options.

    Attributes:
        closure: None also where that of the arguments has computed the gradients in `.grad`.
        loss: None without a closure.
        cost: in gradients, beside the gradient.
        layers: what has recorded the layers' calls; None: no preconditioner needs them.
        linear_calls: at whose outputs the curvature has derivatives.
        closed_form: the systems of linear classifiers; empty where there is no closed form.
        curvature: None where `closed_form` has it.
    """

    def __init__(
        self,
        options: dict[str, Any],
        closure: Callable[..., Tensor] | None,
        trained: list[Tensor],
        shard: Shard,
        loss_scale: float,
        reads: bool,
        share: float,
        has_products: bool,
        is_one_group: bool,
    ):
        self._options, self._shard, self._loss_scale = options, shard, loss_scale
        self._reads, self._share, self._has_products = reads, share, has_products
        self._is_one_group = is_one_group
        self.closure, self.cost = closure, 0.0
        self.loss: Tensor | None = None
        self.layers = LayerRecorder(trained) if options["preconditioner"] == "kronecker" else None
        self.linear_calls: list[LayerCall] = []
        self.closed_form: list[SoftmaxSystem] = []
        self.curvature = self._of_closure(trained)

    def _of_closure(self, trained: list[Tensor]) -> Curvature | None:
        """Computes the loss and its gradient; returns the curvature, None where `closed_form` has it."""
        options, closure, fraction = self._options, self.closure, self._share
        if closure is None:
            self._check_no_second_call()
            if options["curvature"] != "hessian":
                raise ValueError("curvature=gauss_newton: needs a closure that returns the loss")
            return Curvature.of_gradients(trained, self._loss_scale, self._shard)
        if fraction == 1:
            return self._of_whole_batch(closure, trained)
        if not inspect.signature(closure).parameters:
            raise ValueError(
                f"curvature_share={fraction}: the closure must take the fraction of the batch as an argument"
            )
        with torch.enable_grad():
            loss = closure()
            check_loss(loss)
            gradient_of = dict(zip(trained, grad(loss, trained, allow_unused=True), strict=True))
        self.loss = loss.detach()
        self.cost += fraction
        kind = options["curvature"]
        part = partial(closure, fraction)
        of_part = evaluate(part, kind, is_one_iteration(options), True, inner=self.layers, shard=self._shard)
        return Curvature.of_loss(*of_part, trained, kind, shard=self._shard, gradient_of=gradient_of)

    def _of_whole_batch(self, closure: Callable[..., Tensor], trained: list[Tensor]) -> Curvature | None:
        options = self._options
        is_plain = options["preconditioner"] == options["subspace"] == "none" and not is_guarded(options)
        may_have_closed_form = is_plain and self._reads and options["warm_start"] == 0 and may_be_classifiers(trained)
        recorder = SoftmaxHeadRecorder(trained, self._shard) if may_have_closed_form else None
        kind, inner = options["curvature"], recorder or self.layers
        try:
            loss, mode = evaluate(
                closure, kind, is_one_iteration(options), inner=inner, backward_of=trained, shard=self._shard
            )
        except LossWithoutGraph as error:
            return self._of_gradients(error, trained)
        self.loss = loss.detach()
        calls_backward = mode.loss_of_backward is not None
        classifiers = recorder.classifiers(loss, mode.outputs) if recorder and not calls_backward else None
        if classifiers is None:
            # rows of a part of the batch do not make its gradient, nor do they make one that was clipped
            has_rows = self.layers is not None and self._shard.is_whole and not calls_backward
            self.linear_calls = self.layers.linear_calls if self.layers and has_rows else []
            edges = [call.outputs for call in self.linear_calls]
            gradient_of = {p: p.grad for p in trained} if calls_backward else None  # as they were clipped
            if calls_backward:
                self._check_no_second_call()
                self.cost += BACKWARD_COST
            return Curvature.of_loss(loss, mode, trained, kind, edges, self._shard, gradient_of, self._has_products)
        self.closed_form = softmax_systems(
            classifiers, options["cg_max_iter"], options["blocks"] == "parameter", self._is_one_group
        )
        self.cost += sum(system.cost for system in self.closed_form)
        return None

    def _of_gradients(self, error: LossWithoutGraph, trained: list[Tensor]) -> Curvature | None:
        """Does the same where a closure has returned no loss with a graph: the gradients in `.grad` are meant.

        Without any gradient, as where Lightning's training_step returns None, no parameter is used.
        """
        is_skipped = error.loss is None and all(p.grad is None for p in trained)
        if not (is_skipped or has_graph(trained)):
            raise error
        self.closure, self.loss = None, error.loss
        return self._of_closure([] if is_skipped else trained)

    def _check_no_second_call(self) -> None:
        """Raises ValueError if an option needs the loss once more, and the closure cannot compute it."""
        for name, off in (("adapt_damping", False), ("backtracking", 0), ("curvature_share", 1)):
            if self._options[name] != off:
                raise ValueError(f"{name}={self._options[name]}: needs a closure that returns the loss")


def is_one_iteration(options: dict[str, Any]) -> bool:
    """Returns whether a system is solved by one iteration from 0, for which the quadratic form of g is enough."""
    return options["cg_max_iter"] == 1 and options["warm_start"] == 0


def is_guarded(options: dict[str, Any]) -> bool:
    """Returns whether the loss is computed again after the step."""
    return options["adapt_damping"] or options["backtracking"] > 0
