"""Steps that are tried: the loss is computed again after them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..curvature.curvature import Curvature
from ..curvature.double_backward_mode import FastDoubleBackward
from ..vectors import flatten

SUFFICIENT_DECREASE = 1e-4  # c of Armijo's condition
DAMPING = 1e-10, 1e10  # between which it is adapted
FORWARD_COST = 1 / 3  # of a pass, in gradients


class RandomState:
    """The random number generators at the time of construction; inside `with`, that state is set again."""

    def __init__(self, params: Sequence[Tensor]):
        self._devices = sorted({p.device.index for p in params if p.device.type == "cuda"})
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=self._devices)
        self._fork.__enter__()
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._devices, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)


class Guard:
    """Moves along a step as far as the loss falls, and adapts the damping.

    Args:
        options: of all groups.
        closure: returns the loss.
        trained: parameters; random numbers of later losses are those from here on.
        shares_batch: whether the batch is shared with other processes.

    Attributes:
        cost: of what was computed, in gradients.
        report: what `last_step` says of it.
    """

    def __init__(
        self, options: dict[str, Any], closure: Callable[..., Tensor], trained: Sequence[Tensor], shares_batch: bool
    ):
        self._options, self._closure, self._shares_batch = options, closure, shares_batch
        self._random = RandomState(trained)
        self.cost, self.report = 0.0, dict[str, Any]()

    def move(self, curvature: Curvature, loss: float, change: list[Tensor], groups: Sequence[dict[str, Any]]) -> float:
        """Moves along `change`, halved until the loss falls enough; adapts the damping; returns the factor on it.

        Args:
            curvature: at the weights before.
            loss: there.
            change: of each of the curvature's parameters.
            groups: of these.
        """
        params, options = curvature.params, self._options
        slope = float(flatten(curvature.gradient).dot(flatten(change)))
        bend = float(curvature.quadratic_form(change)) if options["adapt_damping"] else 0.0
        before = [p.clone() for p in params]
        factor, least = 1.0, 0.5 ** options["backtracking"]
        while True:
            torch._foreach_copy_(params, before)
            torch._foreach_add_(params, change, alpha=factor)
            actual = self._loss() - loss
            if factor == least or actual <= SUFFICIENT_DECREASE * factor * slope:
                break
            factor /= 2
        if options["backtracking"] > 0:
            self.report["step_size"] = factor
        if options["adapt_damping"]:
            self.cost += options["curvature_share"] * curvature.cost_of_quadratic_form
            predicted = factor * slope + factor**2 * bend / 2
            ratio = actual / predicted if predicted < 0 else 0.0
            scale = 2 / 3 if ratio > 0.75 else 3 / 2 if not ratio >= 0.25 else 1.0
            for group in {id(g): g for g in groups}.values():
                tau = group["damping"]
                least, most = min(tau, DAMPING[0]), max(tau, DAMPING[1])
                group["damping"] = min(max(scale * tau, least), most)
            self.report |= {"reduction_ratio": ratio, "damping": groups[0]["damping"]}
        return factor

    def _loss(self) -> float:
        """Returns the loss at the current weights, with the random numbers that the step began with."""
        self.cost += FORWARD_COST
        mode = FastDoubleBackward(keep_statistics=True, shares_batch=self._shares_batch)
        with self._random, mode, torch.no_grad():
            return float(self._closure())
