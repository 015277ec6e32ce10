"""The step and the state of an optimizer of another library, as a run needs them."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

GENERATORS = "trainopt_generators"  # the key of their states in a state_dict


class FirstCall:
    """A closure that was called before the step, and gives this loss to the first call of the optimizer.

    Optimizers call a closure first, later, several times or never, some under `no_grad`: so the loss and the
    gradients exist before the step. They are computed once more where the weights or the gradients are others when
    the optimizer calls the closure first, as in sharpness-aware minimization, and at every later call.

    Args:
        closure: returns the loss, a scalar, with gradients in place.
        parameters: the parameters that the optimizer updates.
    """

    def __init__(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor]):
        self._closure, self._parameters = closure, parameters
        self._loss: Tensor | None = closure().detach()  # or else torch warns where an optimizer makes it a number
        self._versions = self._current_versions()

    def __call__(self) -> Tensor:
        """Returns the loss at the present weights, a scalar."""
        loss, self._loss = self._loss, None
        if loss is not None and self._versions == self._current_versions():
            return loss
        return self._closure().detach()

    def _current_versions(self) -> list[tuple[int, int]]:
        return [(p._version, id(p.grad)) for p in self._parameters]


def adapt(optimizer: torch.optim.Optimizer, needs_graph: bool = False, sets_lr: bool = False) -> Any:
    """Returns an optimizer of another library as a run needs it: in place, its class becomes one derived from its own.

    Its `step` computes the gradients first; its state holds those of its own random number generators. The class
    keeps its name.

    Args:
        optimizer: of any class.
        needs_graph: whether it differentiates the gradients, which then get a graph.
        sets_lr: whether the learning rate of its parameter groups has no effect.
    """
    library_class: Any = type(optimizer)

    class Adapted(library_class):
        last_step: Mapping[str, Any] = MappingProxyType({})
        needs_loss_function = False

        def step(self, closure: Callable[[], Tensor]) -> Any:
            if needs_graph:
                return step_with_graph(self, super().step, closure)
            return super().step(FirstCall(closure, trained(self)))

        # torch patches the step of every class so that it calls hooks; one is enough
        step.hooked = True  # type: ignore[attr-defined]

        def state_dict(self) -> dict[str, Any]:
            return super().state_dict() | generator_states(self)

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            super().load_state_dict({key: value for key, value in state_dict.items() if key != GENERATORS})
            set_generators(self, state_dict.get(GENERATORS, {}))

    if not getattr(library_class.step, "hooked", False):  # as that of timm's Lookahead, which torch never patched
        Adapted.step = torch.optim.Optimizer.profile_hook_step(Adapted.step)  # type: ignore[method-assign]
        Adapted.step.hooked = True  # type: ignore[attr-defined]
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Adapted, name, getattr(library_class, name))
    Adapted.needs_graph, Adapted.sets_lr = needs_graph, sets_lr
    optimizer.__class__ = Adapted
    return optimizer


def step_with_graph(optimizer: Any, step: Callable[..., Any], closure: Callable[[], Tensor]) -> Any:
    """Makes one update of an optimizer that differentiates the gradients.

    Args:
        optimizer: gets `hvps`, the number of Hessian-vector products, in its `last_step`.
        step: of the library.
        closure: returns the loss, a scalar, with its graph.
    """
    parameters = trained(optimizer)
    products = 0

    def count(_: Tensor) -> None:
        nonlocal products
        products += 1

    def loss_with_graph() -> Tensor:
        loss = closure()
        if not torch.is_grad_enabled():
            return loss
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        counted = next((g for g in gradients if g is not None and g.requires_grad), None)
        if counted is not None:
            counted.register_hook(count)
        return loss

    try:
        return step(FirstCall(loss_with_graph, parameters))
    finally:
        for parameter in parameters:  # a gradient with a graph keeps the graph alive
            parameter.grad = None if parameter.grad is None else parameter.grad.detach()
        optimizer.last_step = {"hvps": products}


def trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Returns the parameters that an optimizer updates."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def generator_states(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the states of an optimizer's own random number generators; nothing where it has none."""
    states = {
        name: {"device": str(value.device), "state": value.get_state()}
        for name, value in vars(optimizer).items()
        if isinstance(value, torch.Generator)
    }
    return {GENERATORS: states} if states else {}


def set_generators(optimizer: torch.optim.Optimizer, states: Mapping[str, Any]) -> None:
    """Sets an optimizer's own random number generators to states of `generator_states`."""
    for name, saved in states.items():
        generator = torch.Generator(saved["device"])
        generator.set_state(saved["state"])
        setattr(optimizer, name, generator)
