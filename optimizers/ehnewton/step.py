"""One step of EHNewton, from the loss to the new weights."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from ..checked import SecondOrderOptimizer, check_types
from ..curvature.conjugate_gradient import conjugate_gradient_flat
from ..curvature.curvature import Curvature
from ..curvature.fixed_iterations import fixed_conjugate_gradient
from ..preconditioners.diagonal import Diagonal
from ..preconditioners.kronecker import Kronecker
from ..scalars import (
    Scalar,
    by_group,
    choose,
    number,
    numbers,
    on,
    opposite,
    quotient,
    root,
    scale_each_,
    scaled,
    smallest,
    store,
    total,
)
from ..vectors import flatten, inner_product, inner_products, per_element, unflatten
from .estimate import CurvatureEstimate, Model
from .guard import Guard
from .linearization import Linearization, is_guarded, is_one_iteration
from .recording import RecordedStep
from .softmax_hessian import LinearSoftmax, by_owner
from .softmax_systems import BiasSystem, solve_in_span
from .solution import NOT_FINITE, Condition, Minimized, Solution, report_of
from .subspace import damping_gram, minimize_in_subspace

DEVICES = ("cuda",)  # types of devices on which a step computes with numbers there, and reads few
SMALLEST_DAMPING = 1e-5  # that K-FAC's factors have beside tau, which may be 0 (eta of Martens and Grosse 2015)

System = Curvature | BiasSystem | LinearSoftmax


class Step:
    """A step: the constructor computes the loss and its gradient, `solve` the direction p, `move` the new weights.

    Args:
        optimizer: EHNewton, for its groups and state.
        closure: returns the loss with its graph; None: `.grad` was computed with create_graph=True. A closure that
            does that itself, and returns no loss with a graph, is taken for None.
        loss_scale: the factor of the loss whose gradient is in `.grad`.
        reads: whether it reads numbers of the device. A step that reads none makes all iterations, and takes part in
            `EHNewton.record`.

    Attributes:
        loss: before the step; None without a closure.
        report: what becomes `last_step`; empty where no number is read.
        numbers: what the report is made of, by `report_of`.
        systems: their number.
        trained: the parameters that it changes.
        finite: numbers that were not read; the step is of no use where one is not finite.
    """

    def __init__(
        self,
        optimizer: SecondOrderOptimizer,
        closure: Callable[..., Tensor] | None,
        loss_scale: float = 1.0,
        reads: bool = True,
    ):
        self.state, self.shard = optimizer.state, optimizer.shard
        self.options = optimizer.param_groups[0]  # options of the whole step are equal in all groups
        self.report: dict[str, Any] = {}
        self.reads, self.finite = reads, list[Scalar]()
        self.is_guarded = is_guarded(self.options)
        # whether the last product frees the graph
        self.has_subspace = self.options["subspace"] == "last_step"
        self.frees_graph = self.options["blocks"] == "all" and not self.is_guarded and not self.has_subspace
        trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        self.guard: Guard | None = None
        if self.is_guarded and closure is not None:
            self.guard = Guard(self.options, closure, trained, not self.shard.is_whole)
        self.group_of = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.estimate: CurvatureEstimate | None = None  # where not each step computes the curvature in the subspace
        if self.options["subspace_every"] > 1 and trained:
            self.estimate = CurvatureEstimate(trained[0], self.state[trained[0]], self.options["subspace_every"])
        is_computed = self.estimate is None or not self.estimate.is_used
        has_products = is_computed or not is_one_iteration(self.options) or self.options["adapt_damping"]
        self.share = self.options["curvature_share"] if has_products else 1.0
        what = self.options, closure, trained, self.shard, loss_scale, reads, self.share, has_products
        at = Linearization(*what, is_one_group=len(optimizer.param_groups) == 1)
        self.closure, self.loss, self.curvature, self.closed_form = at.closure, at.loss, at.curvature, at.closed_form
        self.layers, self.linear_calls = at.layers, at.linear_calls
        self.cost: Scalar = at.cost
        self.has_closed_form = bool(self.closed_form)
        self.params = self.curvature.params if self.curvature else [p for s in self.closed_form for p in s.params]
        self.trained = self.curvature.params if self.curvature else [p for s in self.closed_form for p in s.trained]
        check_types(self.trained, self.options)
        self.groups = [self.group_of[p] for p in self.params]
        is_own = self.closure is not None and self.shard.is_whole and not self.closed_form and not self.is_guarded
        self.on_device = is_own and bool(self.params) and (self.params[0].device.type in DEVICES or not reads)
        self.unit: Scalar = 1.0
        self.trace: Callable[[], Scalar] | None = None
        if self.estimate is not None and self.curvature is not None and self.params:
            self.trace = self.curvature.trace_later(self.on_device)
        self.minimized: Minimized | None = None
        self.model: Model | None = None  # in the subspace
        self.preconditioner = self._precondition()

    def _precondition(self) -> Diagonal | Kronecker | None:
        """Returns the preconditioner at the current weights, whose statistics are updated; sets `unit`.

        What this needs of all processes comes by the reduction of the gradient.

        Raises:
            FloatingPointError: the gradient is not finite, or its squares; nothing was changed.
        """
        kind, preconditioner = self.options["preconditioner"], None
        if self.curvature is None:
            return None
        unit = self.curvature.factor_of_output(self.on_device) if self.options["damping_per_output"] else lambda: 1.0
        if self.layers is not None and self.params:
            preconditioner = Kronecker(self.curvature, self.layers.calls, self.state, self.linear_calls)
        self.unit = unit()
        if kind == "none" or not self.params:
            return None
        gradient = self.curvature.gradient
        squares = number(torch.stack(torch._foreach_norm(gradient)).norm().square(), self.on_device)
        self._must_be_finite(squares, "the gradient is not finite, or its squares")
        if preconditioner is None:
            return Diagonal(self.params, gradient, self.state)
        preconditioner.update(by_group(self.groups, lambda g: g["damping"] * self.unit + SMALLEST_DAMPING * self.unit))
        return preconditioner

    def solve(self) -> None:
        """Computes p for each system, with the feasibility test.

        Raises:
            FloatingPointError: g.p or a curvature is not finite, or too large for its type; no weights were changed.
        """
        systems: Sequence[System] = self.closed_form
        if self.curvature is not None:
            by_parameter = self.options["blocks"] == "parameter"
            systems = [self.curvature.block(i) for i in range(len(self.params))] if by_parameter else [self.curvature]
        # one iteration is begun for all systems before the first ends, so that their curvatures share a reduction
        ends = [self._begin(system, [self.group_of[p] for p in system.params]) for system in systems if system.params]
        solutions = [end() for end in ends]
        if self.has_subspace:
            solutions = [self._in_subspace(s, self.curvature) for s in solutions if self.curvature is not None]
        slope = sum(solution.slope for solution in solutions)
        self._must_be_finite(slope, "the gradient is not finite (its product with the direction is {})")
        self.p = [part for solution in solutions for part in solution.p]
        if self.closed_form:
            self.squares = [s for one in solutions for s in one.squares or [float(part.dot(part)) for part in one.p]]
        if self.options["warm_start"] > 0:
            for param, part in zip(self.params, self.p, strict=True):
                store(self.state[param], "direction", part)
        if self.preconditioner is not None:
            self.cost += self.share * self.preconditioner.cost
            del self.preconditioner, self.layers, self.linear_calls
        if not self.is_guarded:
            del self.curvature, systems  # and with them the graph
        self.numbers, self.systems = [*(n for s in solutions for n in s.numbers), slope], len(solutions)

    def _must_be_finite(self, value: Scalar, message: str) -> None:
        """Raises FloatingPointError if a number, which takes the place of {} in the message, is not finite."""
        if not self.reads:
            self.finite.append(value)
        elif not math.isfinite(value):
            raise FloatingPointError(message.format(float(value)))

    def _begin(self, system: System, groups: list[dict[str, Any]]) -> Callable[[], Solution]:
        """Returns what returns the solution of a system."""
        if is_one_iteration(self.options):
            return self._solve_by_one_iteration(system, groups)
        if isinstance(system, LinearSoftmax):
            solution = solve_in_span(system, self._damping(groups), self.options, float(self._threshold(groups)))
            self.cost += system.cost_of_product * float(solution.products)
            return lambda: solution
        return partial(self._solve, system, groups)

    def _solve(self, system: Curvature | BiasSystem, groups: list[dict[str, Any]]) -> Solution:
        options, parts = self.options, system.like
        b = flatten(system.gradient).neg_()
        if not self.is_guarded and not self.has_subspace:
            system.gradient = []  # one copy is enough
        damping = per_element(parts, self._damping(groups))
        if isinstance(damping, Tensor):
            damping = damping.to(b.dtype)
        remaining = options["cg_max_iter"] + (options["warm_start"] > 0)  # products
        cost_of_product = self.share * system.cost_of_product

        def product(v: Tensor) -> Tensor:
            nonlocal remaining
            remaining -= 1
            result = system.matvec_flat(v, free_graph=remaining == 0 and self.frees_graph)
            return result.addcmul_(v, damping) if isinstance(damping, Tensor) else result.add_(v, alpha=damping)

        limits = options["cg_max_iter"], options["cg_tol"], options["cg_tol_relative"]
        metric = self.preconditioner
        preconditioner = None if metric is None else lambda v: flatten(metric.solve(unflatten(v, parts)))
        if self.reads:
            factor, start = options["warm_start"], None  # of the last direction
            if factor > 0 and all("direction" in self.state[p] for p in parts):
                start = flatten([self.state[p]["direction"] for p in parts]).mul_(factor)
            p, info = conjugate_gradient_flat(product, b, *limits, start, preconditioner, self.on_device)
            found = Solution.of(unflatten(p, parts), info)
            if info.reason == "not_finite" and info.iterations == 0:  # later ones leave what was found
                raise FloatingPointError(NOT_FINITE)
        else:
            p, fixed = fixed_conjugate_gradient(product, b, *limits, preconditioner)
            found = Solution(unflatten(p, parts), fixed.iterations, fixed.residual, fixed.is_negative, fixed.products)
            self._must_be_finite(fixed.curvature, NOT_FINITE)
        for k in range(options["cg_max_iter"] + 2):  # with a start and negative curvature there are two more
            self.cost = choose(found.products > k, self.cost + cost_of_product, self.cost)
        slope = -number(b.dot(p), self.on_device)
        is_fallback = opposite(slope <= -self._threshold(groups))
        if not self.reads or is_fallback:
            plain = b if preconditioner is None else preconditioner(b)
            p = torch.where(is_fallback, plain, p) if isinstance(is_fallback, Tensor) else plain
            slope = choose(is_fallback, -number(b.dot(plain), self.on_device), slope)
        return found._replace(p=unflatten(p, parts), slope=slope, is_fallback=is_fallback)

    def _solve_by_one_iteration(self, system: System, groups: list[dict[str, Any]]) -> Callable[[], Solution]:
        """Returns what returns the first iterate of conjugate gradients, -(g.d / d.(H + tau I)d) d with d = M^-1 g.

        Where the step's length follows from the model in a subspace, it is -d.
        """
        g, options = system.gradient, self.options
        if isinstance(system, LinearSoftmax):
            metrics = system.metrics_of_gradient()
            squares: Tensor | list[float] = inner_products(g, metrics)
            gg: Scalar = max(sum(squares), 0.0)  # not below 0 by rounding; nan stays
        else:
            squares = numbers(torch.stack(torch._foreach_norm(g)).double().square(), self.on_device)
            gg = total(squares)
        d, gd = g, gg
        if self.preconditioner is not None:
            d = self.preconditioner.solve_gradient(g)
            gd = number(inner_product(g, d), self.on_device)
            squares = numbers(torch.stack(torch._foreach_norm(d)).double().square(), self.on_device)
        norm = root(gg)
        is_converged = norm <= options["cg_tol"] * (norm if options["cg_tol_relative"] else 1.0)
        form: Callable[[], Scalar] | None = None
        if not self.has_subspace and (self.on_device or not is_converged):
            cost = self.cost + self.share * system.cost_of_quadratic_form
            self.cost = choose(is_converged, self.cost, cost)
            if isinstance(system, LinearSoftmax):
                form = partial(system.quadratic_form, d, metrics)
            else:
                form = system.quadratic_form_later(d, self.frees_graph)
        if not self.is_guarded and not self.has_subspace:
            system.gradient = []

        def solution() -> Solution:
            factor: Scalar = 1.0
            products: Scalar = 0.0
            is_negative: Condition = False
            iterations = choose(is_converged, 0.0, 1.0)
            if form is not None:
                dAd = number(form(), self.on_device) + total(squares, self._damping(groups))
                self._must_be_finite(choose(is_converged, 0.0, dAd), NOT_FINITE)
                factor = quotient(gd, dAd, 1.0)
                iterations = choose(opposite(dAd > 0), 0.0, iterations)
                is_negative = (dAd <= 0) & opposite(is_converged)
                products = choose(is_converged, 0.0, 1.0)
            factor = choose(is_converged, 0.0, factor)
            is_fallback = opposite(-factor * gd <= -self._threshold(groups))
            factor = choose(is_fallback, 1.0, factor)
            p = scaled(d, -factor)
            of_p = [factor * factor * s for s in squares] if self.closed_form else ()
            return Solution(p, iterations, norm, is_negative, products, -factor * gd, is_fallback, of_p)

        return solution

    def _in_subspace(self, solution: Solution, curvature: Curvature) -> Solution:
        """Returns the step to the minimum of the quadratic model over the directions p and the last step."""
        is_at_rest = (solution.iterations == 0) & (solution.slope == 0)
        self.minimized = Minimized(opposite(is_at_rest), 0.0, 0.0)
        if not self.on_device and is_at_rest and self.estimate is None:
            return solution
        directions, products = [solution.p], 0.0
        if all("last_step" in self.state[p] for p in self.params):
            directions.append([self.state[p]["last_step"] for p in self.params])
        N = damping_gram(directions, self._damping(self.groups))
        trace = self.trace() if self.trace is not None else 1.0
        if self.estimate is not None and self.estimate.is_used:
            Q = self.estimate.matrix(solution.slope, trace, len(directions), self.on_device)
        else:
            products = float(len(directions))
            Q = curvature.gram(directions, free_graph=not self.is_guarded)
        minimum = minimize_in_subspace(
            curvature.gradient, directions, Q + N.to(Q.device), self.on_device, self._largest_decrease()
        )
        self.model = Model(Q, solution.slope, trace, minimum.coefficients)
        cost = self.cost + self.share * products * curvature.cost_of_quadratic_form
        self.cost = choose(is_at_rest, self.cost, cost)
        alpha, beta = (number(x, self.on_device) for x in minimum.coefficients)
        self.minimized = self.minimized._replace(alpha=alpha, beta=beta)
        p = minimum.step
        if isinstance(is_at_rest, Tensor):
            p = [torch.where(is_at_rest, rest, step) for rest, step in zip(solution.p, p, strict=True)]
        return solution._replace(
            p=p,
            is_negative=solution.is_negative | (minimum.is_indefinite & opposite(is_at_rest)),
            products=solution.products + choose(is_at_rest, 0.0, products),
            slope=choose(is_at_rest, solution.slope, minimum.slope),
        )

    def _largest_decrease(self) -> Scalar | None:
        """Returns how far the loss can fall; None where nobody says.

        Raises:
            ValueError: it is below `loss_floor`.
        """
        floor, loss = self.options["loss_floor"], self.loss
        if floor is None or loss is None:
            return None
        room = number(loss, self.on_device) - floor
        if not self.reads:
            self.finite.append(root(room))  # nan below the floor
        elif room < 0:
            raise ValueError(f"loss_floor={floor}: the loss is {float(loss):g}; give its lowest value, or None")
        return room

    def _damping(self, groups: Sequence[dict[str, Any]]) -> list[Scalar]:
        """Returns tau of each parameter."""
        return by_group(groups, lambda group: group["damping"] * self.unit)

    def _threshold(self, groups: list[dict[str, Any]]) -> Scalar:
        """Returns the least -g.p that is feasible: tau; 0 where the damping is adapted, and of a metric or a subspace.

        The size of g.p says nothing about the step there.
        """
        options = self.options
        is_plain = options["preconditioner"] == options["subspace"] == "none" and not options["adapt_damping"]
        return smallest(self._damping(groups)) if is_plain else 0.0

    def move(self) -> None:
        """Changes the weights: the step times lr, with momentum, and with backtracking where that is asked for."""
        change = self.p
        length = self._norm(change) if self.estimate is not None else 0.0
        if self.closed_form and any(group["momentum"] > 0 for group in self.groups):
            by_system = by_owner(self.closed_form, change)
            changes = {p: v for system, parts in by_system for p, v in system.to_parameters(parts).items()}
            self.closed_form, self.params, change = [], list(changes), list(changes.values())
            self.groups = [self.group_of[p] for p in self.params]
        if change and not self.closed_form:
            scale_each_(change, [group["lr"] for group in self.groups])
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0 and "momentum_buffer" in self.state[param]:
                part.add_(self.state[param]["momentum_buffer"], alpha=group["momentum"])
        guard, factor = self.guard, 1.0
        if guard is not None and self.curvature is not None and self.loss is not None and change:
            factor = guard.move(self.curvature, float(self.loss), change, self.groups)
            self.cost += guard.cost
        elif self.closed_form:
            for system, *parts in by_owner(self.closed_form, change, [float(group["lr"]) for group in self.groups]):
                system.add_to_parameters(*parts)
        elif change:
            torch._foreach_add_(self.params, change)
        for param, group, part in zip(self.params, self.groups, change, strict=True):
            if group["momentum"] > 0:
                store(self.state[param], "momentum_buffer", part if factor == 1 else factor * part)
            if self.has_subspace:
                store(self.state[param], "last_step", part if factor == 1 else factor * part)
        norm = factor * self._norm(change)
        if self.estimate is not None and self.model is not None:
            self.estimate.update(self.model, quotient(norm, length, 0.0))
        self.numbers += [norm, self.cost, *(self.minimized or ())]
        if self.reads:
            values: Any = self._stacked(self.numbers).tolist() if self.on_device else self.numbers
            self.report = report_of(values, self.systems)
            if guard is not None:
                self.report |= guard.report
                self.report["hvps"] += "damping" in guard.report  # a quadratic form along the whole step
        if self.closure is None:
            for param in self.params:
                param.grad.detach_()  # type: ignore[union-attr]

    def _norm(self, parts: list[Tensor]) -> Scalar:
        """Returns the length of a change, which is in coordinates where there is a closed form."""
        if self.closed_form:
            square = sum(float(g["lr"]) ** 2 * s for g, s in zip(self.groups, self.squares, strict=True))
            return math.sqrt(max(square, 0.0))
        return number(torch.stack(torch._foreach_norm(parts)).norm(), self.on_device) if parts else 0.0

    def _stacked(self, values: Sequence[Scalar]) -> Tensor:
        """Returns numbers (n,) on the device, in float64."""
        return torch.stack([on(self.params[0].device, value).double() for value in values])

    def recorded(self) -> RecordedStep:
        """Returns what the step has computed, where it has read nothing."""
        loss = cast(Tensor, self.loss)
        return RecordedStep(loss, self._stacked([loss, *self.finite]), self._stacked(self.numbers), self.systems)
