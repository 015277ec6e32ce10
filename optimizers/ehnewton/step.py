"""One step of EHNewton, from the loss to the new weights."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad

from ..checked import SecondOrderOptimizer, check_types, has_graph
from ..curvature.conjugate_gradient import CGInfo, conjugate_gradient_flat
from ..curvature.curvature import Curvature
from ..curvature.double_backward_mode import FastDoubleBackward
from ..curvature.loss import LossWithoutGraph, check_loss, evaluate
from ..preconditioners.diagonal import Diagonal
from ..preconditioners.kronecker import Kronecker
from ..preconditioners.layers import LayerCall, LayerRecorder
from ..vectors import flatten, inner_product, per_element, unflatten
from .random_state import RandomState
from .softmax_recorder import SoftmaxHeadRecorder, may_be_classifiers
from .softmax_systems import SoftmaxSystem, softmax_systems
from .subspace import minimize_in_subspace

SUFFICIENT_DECREASE = 1e-4  # c of Armijo's condition
SMALLEST_DAMPING = 1e-5  # that K-FAC's factors have beside tau, which may be 0 (eta of Martens and Grosse 2015)
FORWARD_COST, BACKWARD_COST = 1 / 3, 2 / 3  # of a pass, in gradients

System = Curvature | SoftmaxSystem


class Solution(NamedTuple):
    """The solution of a system.

    Attributes:
        p: the direction.
        info: how conjugate gradients ended.
        slope: g.p.
        is_fallback: whether p is -g, as the feasibility test failed.
    """

    p: list[Tensor]
    info: CGInfo
    slope: float
    is_fallback: bool


class Step:
    """A step: the constructor computes the loss and its gradient, `solve` the direction p, `move` the new weights.

    Args:
        optimizer: EHNewton, for its groups and state.
        closure: returns the loss with its graph; None: `.grad` was computed with create_graph=True. A closure that
            does that itself, and returns no loss with a graph, is taken for None.
        loss_scale: the factor of the loss whose gradient is in `.grad`.

    Attributes:
        loss: before the step; None without a closure.
        report: what becomes `last_step`.
    """

    def __init__(self, optimizer: SecondOrderOptimizer, closure: Callable[..., Tensor] | None, loss_scale: float = 1.0):
        self.state, self.shard = optimizer.state, optimizer.shard
        self.loss_scale = loss_scale
        self.options = optimizer.param_groups[0]  # options of the whole step are equal in all groups
        self.closure = closure
        self.report: dict[str, Any] = {}
        self.loss: Tensor | None = None
        self.cost = 0.0
        # whether the loss is computed again after the step
        self.is_guarded = self.options["adapt_damping"] or self.options["backtracking"] > 0
        # whether the last product frees the graph
        self.has_subspace = self.options["subspace"] == "last_step"
        self.frees_graph = self.options["blocks"] == "all" and not self.is_guarded and not self.has_subspace
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.random = RandomState(trained) if self.is_guarded else None
        self.group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.closed_form: list[SoftmaxSystem] = []  # empty where there is no closed form
        self.layers = LayerRecorder(trained) if self.options["preconditioner"] == "kronecker" else None
        self.linear_calls: list[LayerCall] = []
        self.curvature = self._linearize(trained)
        self.params = self.curvature.params if self.curvature else [p for s in self.closed_form for p in s.params]
        check_types(self.params, self.options)
        self.groups = [self.group_of[p] for p in self.params]
        self.unit = 1.0
        self.preconditioner = self._precondition()

    def _linearize(self, trained: list[Tensor]) -> Curvature | None:
        """Computes the loss and its gradient; returns the curvature, None where `closed_form` has it."""
        options, closure, fraction = self.options, self.closure, self.options["curvature_share"]
        if closure is None:
            self._check_no_second_call()
            if options["curvature"] != "hessian":
                raise ValueError("curvature=gauss_newton: needs a closure that returns the loss")
            return Curvature.of_gradients(trained, self.loss_scale, self.shard)
        if fraction == 1:
            return self._linearize_whole_batch(closure, trained)
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
        of_part = evaluate(part, kind, self._is_one_iteration, True, inner=self.layers, shard=self.shard)
        return Curvature.of_loss(*of_part, trained, kind, shard=self.shard, gradient_of=gradient_of)

    def _linearize_whole_batch(self, closure: Callable[..., Tensor], trained: list[Tensor]) -> Curvature | None:
        options = self.options
        is_plain = options["preconditioner"] == options["subspace"] == "none" and not self.is_guarded
        may_have_closed_form = is_plain and options["warm_start"] == 0 and may_be_classifiers(trained)
        recorder = SoftmaxHeadRecorder(trained, self.shard) if may_have_closed_form else None
        kind, inner = options["curvature"], recorder or self.layers
        try:
            loss, mode = evaluate(
                closure, kind, self._is_one_iteration, inner=inner, backward_of=trained, shard=self.shard
            )
        except LossWithoutGraph as error:
            return self._linearize_gradients(error, trained)
        self.loss = loss.detach()
        calls_backward = mode.loss_of_backward is not None
        classifiers = recorder.classifiers(loss, mode.outputs) if recorder and not calls_backward else None
        if classifiers is None:
            # rows of a part of the batch do not make its gradient
            self.linear_calls = self.layers.linear_calls if self.layers and self.shard.is_whole else []
            edges = [call.outputs for call in self.linear_calls]
            gradient_of = {p: p.grad for p in trained} if calls_backward else None  # as they were clipped
            if calls_backward:
                self._check_no_second_call()
                self.cost += BACKWARD_COST
            return Curvature.of_loss(loss, mode, trained, kind, edges, self.shard, gradient_of)
        self.closed_form = softmax_systems(classifiers, options["cg_max_iter"], options["blocks"] == "parameter")
        self.cost += sum(system.cost for system in self.closed_form)
        return None

    def _precondition(self) -> Diagonal | Kronecker | None:
        """Returns the preconditioner at the current weights, whose statistics are updated; sets `unit`.

        What this needs of all processes comes by the reduction of the gradient.

        Raises:
            FloatingPointError: the gradient is not finite, or its squares; nothing was changed.
        """
        kind, preconditioner = self.options["preconditioner"], None
        if self.curvature is None:
            return None
        unit = self.curvature.factor_of_output() if self.options["damping_per_output"] else lambda: 1.0
        if self.layers is not None and self.params:
            preconditioner = Kronecker(self.curvature, self.layers.calls, self.state, self.linear_calls)
        self.unit = unit()
        if kind == "none" or not self.params:
            return None
        gradient = self.curvature.gradient
        if not float(torch.stack(torch._foreach_norm(gradient)).norm().square()) < math.inf:
            raise FloatingPointError("the gradient is not finite, or its squares")
        if preconditioner is None:
            return Diagonal(self.params, gradient, self.state)
        preconditioner.update([tau + SMALLEST_DAMPING * self.unit for tau in self._damping(self.groups)])
        return preconditioner

    def _linearize_gradients(self, error: LossWithoutGraph, trained: list[Tensor]) -> Curvature | None:
        """Does the same where a closure has returned no loss with a graph: the gradients in `.grad` are meant.

        Without any gradient, as where Lightning's training_step returns None, no parameter is used.
        """
        is_skipped = error.loss is None and all(p.grad is None for p in trained)
        if not (is_skipped or has_graph(trained)):
            raise error
        self.closure, self.loss = None, error.loss
        return self._linearize([] if is_skipped else trained)

    def _check_no_second_call(self) -> None:
        """Raises ValueError if an option needs the loss once more, and the closure cannot compute it."""
        for name, off in (("adapt_damping", False), ("backtracking", 0), ("curvature_share", 1)):
            if self.options[name] != off:
                raise ValueError(f"{name}={self.options[name]}: needs a closure that returns the loss")

    @property
    def _is_one_iteration(self) -> bool:
        """Whether a system is solved by one iteration from 0, for which the quadratic form of g is enough."""
        return self.options["cg_max_iter"] == 1 and self.options["warm_start"] == 0

    def solve(self) -> None:
        """Computes p for each system, with the feasibility test.

        Raises:
            FloatingPointError: g.p is not finite, so g is not, or too large for its type; nothing was changed.
        """
        systems: Sequence[System] = self.closed_form
        if self.curvature is not None:
            by_parameter = self.options["blocks"] == "parameter"
            systems = [self.curvature.block(i) for i in range(len(self.params))] if by_parameter else [self.curvature]
        solve = self._solve_by_one_iteration if self._is_one_iteration else partial(partial, self._solve)
        # one iteration is begun for all systems before the first ends, so that their curvatures share a reduction
        ends = [solve(system, [self.group_of[p] for p in system.params]) for system in systems if system.params]
        solutions = [end() for end in ends]
        if self.has_subspace:
            solutions = [self._in_subspace(s, self.curvature) for s in solutions if self.curvature is not None]
        slope = sum(solution.slope for solution in solutions)
        if not math.isfinite(slope):
            raise FloatingPointError(f"the gradient is not finite (its product with the direction is {slope})")
        self.p = [part for solution in solutions for part in solution.p]
        if self.options["warm_start"] > 0:
            for param, part in zip(self.params, self.p, strict=True):
                self.state[param]["direction"] = part.clone()
        if self.preconditioner is not None:
            self.cost += self.options["curvature_share"] * self.preconditioner.cost
            del self.preconditioner, self.layers, self.linear_calls
        if not self.is_guarded:
            del self.curvature, systems  # and with them the graph
        infos = [solution.info for solution in solutions]
        self.report |= {
            "cg_iterations": max((info.iterations for info in infos), default=0),
            "residual": math.hypot(*(info.residual for info in infos)),
            "fallbacks": sum(solution.is_fallback for solution in solutions),
            "negative_curvature": sum(info.reason == "negative_curvature" for info in infos),
            "directional_derivative": slope,
            "hvps": sum(info.products for info in infos),
        }

    def _solve(self, system: System, groups: list[dict[str, Any]]) -> Solution:
        options, like = self.options, system.like
        b = flatten(system.gradient).neg_()
        if not self.is_guarded and not self.has_subspace:
            system.gradient = []  # one copy is enough
        damping = per_element(like, self._damping(groups))
        remaining = options["cg_max_iter"] + (options["warm_start"] > 0)  # products

        def product(v: Tensor) -> Tensor:
            nonlocal remaining
            remaining -= 1
            self.cost += options["curvature_share"] * system.cost_of_product
            result = system.matvec_flat(v, free_graph=remaining == 0 and self.frees_graph)
            return result.addcmul_(v, damping) if isinstance(damping, Tensor) else result.add_(v, alpha=damping)

        limits = options["cg_max_iter"], options["cg_tol"], options["cg_tol_relative"]
        metric = self.preconditioner
        preconditioner = None if metric is None else lambda v: flatten(metric.solve(unflatten(v, like)))
        p, info = conjugate_gradient_flat(product, b, *limits, self._start(like), preconditioner)
        slope = -float(b.dot(p))
        is_fallback = not slope <= -self._threshold(groups)
        if is_fallback:
            p = b if preconditioner is None else preconditioner(b)
            slope = -float(b.dot(p))
        return Solution(unflatten(p, like), info, slope, is_fallback)

    def _solve_by_one_iteration(self, system: System, groups: list[dict[str, Any]]) -> Callable[[], Solution]:
        """Returns what returns the first iterate of conjugate gradients, -(g.d / d.(H + tau I)d) d with d = M^-1 g.

        Where the step's length follows from the model in a subspace, it is -d.
        """
        g, options = system.gradient, self.options
        squares = torch.stack(torch._foreach_norm(g)).double().square().tolist()
        gg = sum(squares)
        d, gd = g, gg
        if self.preconditioner is not None:
            d = self.preconditioner.solve_gradient(g)
            gd = float(inner_product(g, d))
            squares = torch.stack(torch._foreach_norm(d)).double().square().tolist()
        form: Callable[[], Tensor] | None = None
        scale, info = 1.0, CGInfo(1, gg**0.5, "max_iter", 0)
        if gg**0.5 <= options["cg_tol"] * (gg**0.5 if options["cg_tol_relative"] else 1.0):
            scale, info = 0.0, CGInfo(0, gg**0.5, "converged", 0)
        elif not self.has_subspace:
            self.cost += options["curvature_share"] * system.cost_of_quadratic_form
            form = partial(system.quadratic_form, d, self.frees_graph)
            if isinstance(system, Curvature):
                form = system.quadratic_form_later(d, self.frees_graph)
        if not self.is_guarded and not self.has_subspace:
            system.gradient = []

        def solution() -> Solution:
            factor, ending = scale, info
            if form is not None:
                dAd = float(form())
                dAd += sum(tau * square for tau, square in zip(self._damping(groups), squares, strict=True))
                factor, ending = gd / dAd if dAd > 0 else 1.0, info._replace(products=1)
                if not dAd > 0:
                    ending = CGInfo(0, gg**0.5, "negative_curvature" if dAd <= 0 else "not_finite", 1)
            is_fallback = not -factor * gd <= -self._threshold(groups)
            factor = 1.0 if is_fallback else factor
            return Solution(list(torch._foreach_mul(d, -factor)), ending, -factor * gd, is_fallback)

        return solution

    def _in_subspace(self, solution: Solution, curvature: Curvature) -> Solution:
        """Returns the step to the minimum of the quadratic model over the directions p and the last step."""
        if solution.info.reason == "converged" and solution.slope == 0:
            return solution
        directions = [solution.p]
        if all("last_step" in self.state[p] for p in self.params):
            directions.append([self.state[p]["last_step"] for p in self.params])
        damping = self._damping(self.groups)
        minimum = minimize_in_subspace(curvature, directions, damping, free_graph=not self.is_guarded)
        self.cost += self.options["curvature_share"] * len(directions) * curvature.cost_of_quadratic_form
        self.report |= {"alpha": minimum.coefficients[0], "beta": minimum.coefficients[1]}
        info = solution.info._replace(products=solution.info.products + len(directions))
        if minimum.is_indefinite:
            info = info._replace(reason="negative_curvature")
        return Solution(minimum.step, info, minimum.slope, solution.is_fallback)

    def _damping(self, groups: Sequence[dict[str, Any]]) -> list[float]:
        """Returns tau of each parameter."""
        return [group["damping"] * self.unit for group in groups]

    def _threshold(self, groups: list[dict[str, Any]]) -> float:
        """Returns the least -g.p that is feasible: tau; 0 where the damping is adapted, and of a metric or a subspace.

        The size of g.p says nothing about the step there.
        """
        options = self.options
        is_plain = options["preconditioner"] == options["subspace"] == "none" and not options["adapt_damping"]
        return min(self._damping(groups)) if is_plain else 0.0

    def _start(self, params: Sequence[Tensor]) -> Tensor | None:
        """Returns the start of conjugate gradients from the last direction; None is 0."""
        factor = self.options["warm_start"]
        if factor == 0 or not all("direction" in self.state[p] for p in params):
            return None
        return flatten([self.state[p]["direction"] for p in params]).mul_(factor)

    def move(self) -> None:
        """Changes the weights: the step times lr, with momentum, and with backtracking where that is asked for."""
        change = self.p
        if change:
            torch._foreach_mul_(change, [group["lr"] for group in self.groups])
        if self.closed_form and any(group["momentum"] > 0 for group in self.groups):
            by_system = self._by_system(change)
            changes = {p: v for system, parts in by_system for p, v in system.to_parameters(parts).items()}
            self.closed_form, self.params, change = [], list(changes), list(changes.values())
            self.groups = [self.group_of[p] for p in self.params]
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0 and "momentum_buffer" in self.state[param]:
                part.add_(self.state[param]["momentum_buffer"], alpha=group["momentum"])
        guard = self.curvature if self.is_guarded and change else None
        factor = self._move_guarded(change, guard) if guard else self._move_plainly(change)
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0:
                self.state[param]["momentum_buffer"] = factor * part
            if self.has_subspace:
                self.state[param]["last_step"] = part if factor == 1 else factor * part
        self.report["step_length"] = factor * float(torch.stack(torch._foreach_norm(change)).norm()) if change else 0.0
        self.report["gradient_equivalents"] = self.cost
        if self.closure is None:
            for param in self.params:
                param.grad.detach_()  # type: ignore[union-attr]

    def _move_plainly(self, change: list[Tensor]) -> float:
        """Moves along `change`; returns the factor on it, 1."""
        if self.closed_form:
            for system, parts in self._by_system(change):
                system.add_to_parameters(parts)
        elif change:
            torch._foreach_add_(self.params, change)
        return 1.0

    def _by_system(self, change: list[Tensor]) -> list[tuple[SoftmaxSystem, list[Tensor]]]:
        """Returns each system of the closed form with its part of a change."""
        parts = iter(change)
        return [(system, [next(parts) for _ in system.params]) for system in self.closed_form]

    def _move_guarded(self, change: list[Tensor], curvature: Curvature) -> float:
        """Moves along `change`, halved until the loss falls enough; adapts the damping; returns the factor on it."""
        loss, slope = float(self.loss), float(flatten(curvature.gradient).dot(flatten(change)))  # type: ignore[arg-type]
        bend = float(curvature.quadratic_form(change)) if self.options["adapt_damping"] else 0.0
        before = [p.clone() for p in self.params]
        factor, least = 1.0, 0.5 ** self.options["backtracking"]
        while True:
            torch._foreach_copy_(self.params, before)
            torch._foreach_add_(self.params, change, alpha=factor)
            actual = self._loss_again() - loss
            if factor == least or actual <= SUFFICIENT_DECREASE * factor * slope:
                break
            factor /= 2
        if self.options["backtracking"] > 0:
            self.report["step_size"] = factor
        if self.options["adapt_damping"]:
            self.cost += self.options["curvature_share"] * curvature.cost_of_quadratic_form
            self.report["hvps"] += 1
            predicted = factor * slope + factor**2 * bend / 2
            ratio = actual / predicted if predicted < 0 else 0.0
            scale = 2 / 3 if ratio > 0.75 else 3 / 2 if not ratio >= 0.25 else 1.0
            for group in {id(g): g for g in self.groups}.values():
                group["damping"] *= scale
            self.report |= {"reduction_ratio": ratio, "damping": self.groups[0]["damping"]}
        return factor

    def _loss_again(self) -> float:
        """Returns the loss at the current weights, with the random numbers that the step began with."""
        self.cost += FORWARD_COST
        mode = FastDoubleBackward(keep_statistics=True, shares_batch=not self.shard.is_whole)
        with self.random, mode, torch.no_grad():  # type: ignore[union-attr]
            return float(self.closure())  # type: ignore[misc]
