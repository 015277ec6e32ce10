"""One step of EHNewton, from the loss to the new weights."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.optim import Optimizer

from .conjugate_gradient import CGInfo, conjugate_gradient
from .curvature import Curvature
from .trace import Trace
from .vectors import dot, norm

SUFFICIENT_DECREASE = 1e-4  # c of Armijo's condition
FORWARD_COST = 1 / 3  # of a forward pass, in gradients


class Step:
    """A step: `solve` finds p, `move` changes the weights; `report` says what was done, `loss` is that before it.

    Args:
        optimizer: EHNewton, for its groups and state.
        closure: returns the loss with its graph; None: `.grad` was computed with create_graph=True.
    """

    def __init__(self, optimizer: Optimizer, closure: Callable[..., Tensor] | None):
        self.state = optimizer.state
        self.options = optimizer.param_groups[0]  # what is of the whole step is the same in all groups
        self.closure = closure
        self.report: dict[str, Any] = {}
        self.loss: Tensor | None = None
        self.cost = 0.0
        self.tries = self.options["adapt_damping"] or self.options["backtracking"] > 0
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.random = RandomState(trained) if self.tries else None
        self.curvature = self._look(trained)
        self.params, self.gradient = self.curvature.params, self.curvature.gradient
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.groups = [groups[p] for p in self.params]

    def _look(self, trained: list[Tensor]) -> Curvature:
        """Compute the loss, its gradient, and what products need."""
        options, closure, share = self.options, self.closure, self.options["curvature_share"]
        if closure is None:
            for name, off in (("adapt_damping", False), ("backtracking", 0), ("curvature_share", 1)):
                if options[name] != off:
                    raise ValueError(f"{name}={options[name]}: needs a closure that returns the loss")
            if options["curvature"] != "hessian":
                raise ValueError("curvature=gauss_newton: needs a closure that returns the loss")
            return Curvature.of_gradients(trained)
        along_only = options["cg_max_iter"] == 1 and options["warm_start"] == 0
        if share == 1:
            found = Curvature(closure, trained, options["curvature"], along_only)
            self.loss = found.loss
            return found
        if not inspect.signature(closure).parameters:
            raise ValueError(
                f"curvature_share={share}: the closure must take the share of the batch as an argument"
            )
        with torch.enable_grad():
            loss = closure()
            gradient = dict(zip(trained, grad(loss, trained, allow_unused=True), strict=True))
        self.loss = loss.detach()
        self.cost += share
        found = Curvature(lambda: closure(share), trained, options["curvature"], along_only, keep_statistics=True)
        found.gradient = [gradient[p] for p in found.params]
        return found

    def solve(self) -> None:
        """Find p for each system, with the feasibility test."""
        if self.options["blocks"] == "all":
            p, info, fell_back = self._solve(self.curvature, self.groups)
            infos, self.p, fallbacks = [info], p, int(fell_back)
        else:
            infos, self.p, fallbacks = [], [], 0
            for i, group in enumerate(self.groups):
                p, info, fell_back = self._solve(self.curvature.block(i), [group])
                infos.append(info)
                self.p += p
                fallbacks += fell_back
        for param, p in zip(self.params, self.p, strict=True):
            if self.options["warm_start"] > 0:
                self.state[param]["direction"] = p
        self.report |= {
            "cg_iterations": max((info.iterations for info in infos), default=0),
            "residual": math.hypot(*(info.residual for info in infos)),
            "fallbacks": fallbacks,
            "negative_curvature": sum(info.reason == "negative_curvature" for info in infos),
            "directional_derivative": float(dot(self.gradient, self.p)),
            "hvps": sum(info.products for info in infos),
        }

    def _solve(self, curvature: Curvature, groups: list[dict[str, Any]]) -> tuple[list[Tensor], CGInfo, bool]:
        """Return p of a system, how it was reached, and whether it is -g for want of a direction of descent."""
        options, g = self.options, curvature.gradient
        b = [-part for part in g]
        damping = [group["damping"] for group in groups]

        def damped(v: Sequence[Tensor]) -> list[Tensor]:
            self.cost += curvature.cost_of_product
            return [c.add_(part, alpha=tau) for c, part, tau in zip(curvature.product(v), v, damping, strict=True)]

        if options["cg_max_iter"] == 1 and options["warm_start"] == 0:
            p, info = self._one_iteration(curvature, b, damping)
        else:
            tol, relative = options["cg_tol"], options["cg_tol_relative"]
            p, info = conjugate_gradient(
                damped, b, options["cg_max_iter"], tol, relative, self._start(curvature.params)
            )
        fell_back = not float(dot(g, p)) <= -min(damping)
        return (b if fell_back else p), info, fell_back

    def _one_iteration(
        self, curvature: Curvature, b: list[Tensor], damping: list[float]
    ) -> tuple[list[Tensor], CGInfo]:
        """Return what conjugate gradients reach from 0 in one iteration: the curvature along b is enough."""
        gg = float(dot(b, b))
        if gg**0.5 <= self.options["cg_tol"] * (gg**0.5 if self.options["cg_tol_relative"] else 1.0):
            return [torch.zeros_like(part) for part in b], CGInfo(0, gg**0.5, "converged", 0)
        self.cost += curvature.cost_of_along
        bAb = float(curvature.along(b)) + sum(
            tau * float(dot([x], [x])) for tau, x in zip(damping, b, strict=True) if tau
        )
        if not bAb > 0:
            return b, CGInfo(0, gg**0.5, "negative_curvature" if bAb == bAb else "not_finite", 1)
        return list(torch._foreach_mul(b, gg / bAb)), CGInfo(1, gg**0.5, "max_iter", 1)

    def _start(self, params: Sequence[Tensor]) -> list[Tensor] | None:
        factor = self.options["warm_start"]
        if factor == 0 or not all("direction" in self.state[p] for p in params):
            return None
        return [factor * self.state[p]["direction"] for p in params]

    def move(self) -> None:
        """Change the weights: the step times lr, with momentum, and as far as the loss falls."""
        change = list(torch._foreach_mul(self.p, [group["lr"] for group in self.groups])) if self.p else []
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0 and "momentum_buffer" in self.state[param]:
                part.add_(self.state[param]["momentum_buffer"], alpha=group["momentum"])
        factor = self._try(change) if self.tries else self._add(change)
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0:
                self.state[param]["momentum_buffer"] = factor * part
        self.report["step_length"] = factor * float(norm(change))
        self.report["gradient_equivalents"] = self.cost
        if self.closure is None:
            for param in self.params:
                param.grad.detach_()  # type: ignore[union-attr]

    def _add(self, change: list[Tensor]) -> float:
        if change:
            torch._foreach_add_(self.params, change)
        return 1.0

    def _try(self, change: list[Tensor]) -> float:
        """Move along `change`, halved until the loss falls enough; adapt the damping; return the factor."""
        loss, slope = float(self.loss), float(dot(self.gradient, change))  # type: ignore[arg-type]
        bend = float(self.curvature.along(change)) if self.options["adapt_damping"] else 0.0
        before = [p.clone() for p in self.params]
        factor, least = 1.0, 0.5 ** self.options["backtracking"]
        while True:
            torch._foreach_copy_(self.params, before)
            torch._foreach_add_(self.params, change, alpha=factor)
            actual = self._loss_here() - loss
            if factor == least or actual <= SUFFICIENT_DECREASE * factor * slope:
                break
            factor /= 2
        if self.options["backtracking"] > 0:
            self.report["step_size"] = factor
        if self.options["adapt_damping"]:
            self.cost += self.curvature.cost_of_along
            predicted = factor * slope + factor**2 * bend / 2
            ratio = actual / predicted if predicted < 0 else 0.0
            scale = 2 / 3 if ratio > 0.75 else 3 / 2 if not ratio >= 0.25 else 1.0
            for group in {id(g): g for g in self.groups}.values():
                group["damping"] *= scale
            self.report |= {"reduction_ratio": ratio, "damping": self.groups[0]["damping"]}
        return factor

    def _loss_here(self) -> float:
        """Return the loss at the weights as they are, with the random numbers that the step began with."""
        self.cost += FORWARD_COST
        with self.random, Trace(keep_statistics=True), torch.no_grad():  # type: ignore[union-attr]
            return float(self.closure())  # type: ignore[misc]


class RandomState:
    """The random number generators as they are when it is made; inside `with`, they are so again."""

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
