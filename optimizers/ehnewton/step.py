"""One step of EHNewton, from the loss to the new weights."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad
from torch.optim import Optimizer

from ..curvature.conjugate_gradient import CGInfo, solve
from ..curvature.curvature import Curvature, evaluated
from ..curvature.double_backward_mode import Trace
from ..vectors import flatten, unflatten
from .softmax_hessian import LinearSoftmax
from .softmax_recorder import Recorder, may_be_classifiers
from .softmax_systems import BiasSystem, softmax_systems

SUFFICIENT_DECREASE = 1e-4  # c of Armijo's condition
FORWARD_COST = 1 / 3  # of a forward pass, in gradients


class System(NamedTuple):
    """What solving a system gave: `p`, how, `slope` = g.p, and whether p fell back on -g."""

    p: list[Tensor]
    info: CGInfo
    slope: float
    fell_back: bool


def each(params: Sequence[Tensor], groups: Sequence[dict[str, Any]], name: str) -> Tensor | float:
    """Returns an option of the parameters' groups: a number where they agree, else one for each element (n,)."""
    values = [float(group[name]) for group in groups]
    if len(set(values)) == 1:
        return values[0]
    return torch.cat([p.new_full((p.numel(),), value) for p, value in zip(params, values, strict=True)])


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
        # whether the graph may be freed by the last product
        self.lets_go = self.options["blocks"] == "all" and not self.tries
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.random = RandomState(trained) if self.tries else None
        self.group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.closed_form: list[LinearSoftmax | BiasSystem] = []  # the systems, where there is such a form
        self.curvature = self._look(trained)
        self.params = self.curvature.params if self.curvature else [p for c in self.closed_form for p in c.params]
        self.groups = [self.group_of[p] for p in self.params]

    def _look(self, trained: list[Tensor]) -> Curvature | None:
        """Computes the loss, its gradient, and what products need; None where there is a closed form."""
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
            afresh = not self.tries and options["warm_start"] == 0
            recorder = Recorder(trained) if afresh and may_be_classifiers(trained) else None
            loss, trace = evaluated(closure, options["curvature"], along_only, beside=recorder)
            self.loss = loss.detach()
            classifiers = recorder.classifiers(loss, trace.outputs) if recorder else None
            if classifiers is None:
                return Curvature.of_loss(loss, trace, trained, options["curvature"])
            self.closed_form = softmax_systems(
                classifiers, options["cg_max_iter"], apart=options["blocks"] == "parameter"
            )
            self.cost += sum(system.cost for system in self.closed_form)
            return None
        if not inspect.signature(closure).parameters:
            raise ValueError(f"curvature_share={share}: the closure must take the share of the batch as an argument")
        with torch.enable_grad():
            loss = closure()
            gradient = dict(zip(trained, grad(loss, trained, allow_unused=True), strict=True))
        self.loss = loss.detach()
        self.cost += share
        found = Curvature(lambda: closure(share), trained, options["curvature"], along_only, keep_statistics=True)
        parts = ((p, gradient[p]) for p in found.params)
        found.gradient = [torch.zeros_like(p) if g is None else g for p, g in parts]
        return found

    def solve(self) -> None:
        """Finds p for each system, with the feasibility test."""
        curvatures: Sequence[Curvature | LinearSoftmax | BiasSystem] = self.closed_form
        if self.curvature is not None:
            apart = self.options["blocks"] == "parameter"
            curvatures = [self.curvature.block(i) for i in range(len(self.params))] if apart else [self.curvature]
        found = [self._solve(c, [self.group_of[p] for p in c.params]) for c in curvatures if c.params]
        self.p = [part for system in found for part in system.p]
        if self.options["warm_start"] > 0:
            for param, part in zip(self.params, self.p, strict=True):
                self.state[param]["direction"] = part.clone()
        if not self.tries:
            del self.curvature, curvatures  # and with them the graph
        infos = [system.info for system in found]
        self.report |= {
            "cg_iterations": max((info.iterations for info in infos), default=0),
            "residual": math.hypot(*(info.residual for info in infos)),
            "fallbacks": sum(system.fell_back for system in found),
            "negative_curvature": sum(info.reason == "negative_curvature" for info in infos),
            "directional_derivative": sum(system.slope for system in found),
            "hvps": sum(info.products for info in infos),
        }

    def _solve(self, curvature: Curvature | LinearSoftmax | BiasSystem, groups: list[dict[str, Any]]) -> "System":
        """Solves a system."""
        if self.options["cg_max_iter"] == 1 and self.options["warm_start"] == 0:
            return self._one_iteration(curvature, groups)
        options, like = self.options, curvature.like
        b = flatten(curvature.gradient).neg_()
        if not self.tries:
            curvature.gradient = []  # one copy is enough
        damping = each(like, groups, "damping")
        left = options["cg_max_iter"] + (options["warm_start"] > 0)  # products

        def product(v: Tensor) -> Tensor:
            nonlocal left
            left -= 1
            self.cost += options["curvature_share"] * curvature.cost_of_product
            result = curvature.times(v, last=left == 0 and self.lets_go)
            return result.addcmul_(v, damping) if isinstance(damping, Tensor) else result.add_(v, alpha=damping)

        p, info = solve(
            product, b, options["cg_max_iter"], options["cg_tol"], options["cg_tol_relative"], self._start(like)
        )
        slope = -float(b.dot(p))
        fell_back = not slope <= -self._threshold(groups)
        if fell_back:
            p, slope = b, -float(b.dot(b))
        return System(unflatten(p, like), info, slope, fell_back)

    def _one_iteration(
        self, curvature: Curvature | LinearSoftmax | BiasSystem, groups: list[dict[str, Any]]
    ) -> "System":
        """Returns what conjugate gradients reach from 0 in one iteration: the curvature along g is enough."""
        g, options = curvature.gradient, self.options
        squares = torch.stack(torch._foreach_norm(g)).double().square().tolist()
        gg = sum(squares)
        if gg**0.5 <= options["cg_tol"] * (gg**0.5 if options["cg_tol_relative"] else 1.0):
            scale, info = 0.0, CGInfo(0, gg**0.5, "converged", 0)
        else:
            self.cost += options["curvature_share"] * curvature.cost_of_along
            gAg = float(curvature.along(g, last=self.lets_go))
            gAg += sum(group["damping"] * square for group, square in zip(groups, squares, strict=True))
            scale, info = gg / gAg if gAg > 0 else 1.0, CGInfo(1, gg**0.5, "max_iter", 1)
            if not gAg > 0:
                info = CGInfo(0, gg**0.5, "negative_curvature" if gAg <= 0 else "not_finite", 1)
        fell_back = not -scale * gg <= -self._threshold(groups)
        if fell_back:
            scale = 1.0
        p = list(torch._foreach_mul(g, -scale))
        if not self.tries:
            curvature.gradient = []
        return System(p, info, -scale * gg, fell_back)

    def _threshold(self, groups: list[dict[str, Any]]) -> float:
        """Returns what -g.p must reach: tau; with a damping that is adapted any direction of descent will do."""
        return 0.0 if self.options["adapt_damping"] else min(group["damping"] for group in groups)

    def _start(self, params: Sequence[Tensor]) -> Tensor | None:
        factor = self.options["warm_start"]
        if factor == 0 or not all("direction" in self.state[p] for p in params):
            return None
        return flatten([self.state[p]["direction"] for p in params]).mul_(factor)

    def move(self) -> None:
        """Changes the weights: the step times lr, with momentum, and as far as the loss falls."""
        change = self.p
        if change:
            torch._foreach_mul_(change, [group["lr"] for group in self.groups])
        if self.closed_form and any(group["momentum"] > 0 for group in self.groups):
            changes = {p: v for system, own in self._apart(change) for p, v in system.changes(own).items()}
            self.closed_form, self.params, change = [], list(changes), list(changes.values())
            self.groups = [self.group_of[p] for p in self.params]
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0 and "momentum_buffer" in self.state[param]:
                part.add_(self.state[param]["momentum_buffer"], alpha=group["momentum"])
        tried = self.curvature if self.tries and change else None
        factor = self._try(change, tried) if tried else self._add(change)
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0:
                self.state[param]["momentum_buffer"] = factor * part
        self.report["step_length"] = factor * float(torch.stack(torch._foreach_norm(change)).norm()) if change else 0.0
        self.report["gradient_equivalents"] = self.cost
        if self.closure is None:
            for param in self.params:
                param.grad.detach_()  # type: ignore[union-attr]

    def _add(self, change: list[Tensor]) -> float:
        if self.closed_form:
            for system, own in self._apart(change):
                system.add(own)
        elif change:
            torch._foreach_add_(self.params, change)
        return 1.0

    def _apart(self, change: list[Tensor]) -> list[tuple[LinearSoftmax | BiasSystem, list[Tensor]]]:
        """Returns each system of the closed form with its part of a change."""
        parts = iter(change)
        return [(system, [next(parts) for _ in system.params]) for system in self.closed_form]

    def _try(self, change: list[Tensor], curvature: Curvature) -> float:
        """Moves along `change`, halved until the loss falls enough; adapt the damping; returns the factor."""
        loss, slope = float(self.loss), float(flatten(curvature.gradient).dot(flatten(change)))  # type: ignore[arg-type]
        bend = float(curvature.along(change)) if self.options["adapt_damping"] else 0.0
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
            self.cost += self.options["curvature_share"] * curvature.cost_of_along
            self.report["hvps"] += 1
            predicted = factor * slope + factor**2 * bend / 2
            ratio = actual / predicted if predicted < 0 else 0.0
            scale = 2 / 3 if ratio > 0.75 else 3 / 2 if not ratio >= 0.25 else 1.0
            for group in {id(g): g for g in self.groups}.values():
                group["damping"] *= scale
            self.report |= {"reduction_ratio": ratio, "damping": self.groups[0]["damping"]}
        return factor

    def _loss_here(self) -> float:
        """Returns the loss at the weights as they are, with the random numbers that the step began with."""
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
