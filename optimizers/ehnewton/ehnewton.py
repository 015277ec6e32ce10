"""EHNewton: truncated Newton steps for a whole network."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checked import SecondOrderOptimizer, refuse_complex
from ..curvature.curvature import KINDS
from ..preconditioners.kronecker import follows_batch
from .estimate import STEPS, computes_curvature
from .recording import RecordedStep, reason_to_read
from .step import Step

COUNTS = "preconditioner_steps", STEPS  # numbers of steps in the state of a parameter
BLOCKS = ("all", "parameter")
PRECONDITIONERS = ("none", "diagonal", "kronecker")
SUBSPACES = ("none", "last_step")
# options of one system or of the whole step, which cannot differ between groups
SHARED = (
    "cg_max_iter",
    "cg_tol",
    "cg_tol_relative",
    "blocks",
    "curvature",
    "curvature_share",
    "warm_start",
    "adapt_damping",
    "backtracking",
    "preconditioner",
    "subspace",
    "subspace_every",
    "damping_per_output",
    "loss_floor",
)


class EHNewton(SecondOrderOptimizer):
    """Steps along a Newton direction, computed by conjugate gradients without ever forming the Hessian.

    With the loss L on a batch, its gradient g and Hessian H at the weights w:

        (H + tau I) p = -g            by at most cg_max_iter iterations of conjugate gradients from 0
        p <- -g   if   g.p > -tau     the feasibility test: p may not be a direction of descent
        w <- (1 - lr weight_decay) w + lr p

    (Zorca 2020, section 3.2 and algorithm 4; where these differ, section 3.2 holds.) Where |g.p| < tau, the step is
    one of plain gradient descent: `last_step["fallbacks"]` counts these. At a direction of negative curvature
    conjugate gradients stop with the current p; at the first iteration that is -g. With `cg_max_iter=1` the step is
    -(g.g / g.(H + tau I)g) g, to the minimum along -g of the quadratic model, and costs two gradients.

    >>> w = torch.nn.Parameter(torch.tensor([5.0, 3.0]))
    >>> optimizer = EHNewton([w], lr=1.0, damping=0.0)
    >>> optimizer.step(lambda: 5 + 3 * (w**2).sum()).item(), w.tolist()
    (107.0, [0.0, 0.0])
    >>> optimizer.last_step["cg_iterations"], optimizer.last_step["hvps"]
    (1, 1)

    Args:
        params: parameters, of one dtype and device, or groups of them; lr, damping, momentum and weight_decay may
            differ between groups.
        lr: factor on the step.
        damping: tau, added to the diagonal; also the threshold of the feasibility test (of several the smallest).
        cg_max_iter: the largest number of iterations of conjugate gradients (the study: 20 for one network, 1 for two).
        cg_tol: they stop where ||(H + tau I) p + g||_2 <= cg_tol.
        cg_tol_relative: cg_tol is relative to ||g||_2.
        blocks: "all": one system for all parameters. "parameter": one for each tensor, as if H were
            block-diagonal, each with its feasibility test, as in the study's program. Products of all blocks
            together then cost up to 2 gradients for every tensor, instead of 2 in all.
        curvature: "hessian", or "gauss_newton" for the generalized Gauss-Newton matrix (see `Curvature`).
        curvature_share: H is that of this fraction of the batch; the closure must take the fraction as an argument.
        warm_start: conjugate gradients start from the last p times this factor (Martens 2010: 0.95); 0: from 0.
        momentum: the fraction of the last step that is added to this one.
        adapt_damping: Levenberg-Marquardt: tau * 2/3 where the loss fell by more than 3/4 of the quadratic model's
            prediction, tau * 3/2 where by less than 1/4; costs a forward pass and a quadratic form. Any direction of
            descent is then feasible (g.p <= 0): a growing tau would turn every step into gradient descent. It stays
            between 1e-10 and 1e10, unless it began outside.
        backtracking: how often the step may be halved until L(w + lr p) <= L(w) + 1e-4 lr g.p, a forward pass each.
        preconditioner: M, the metric of conjugate gradients, whose first direction is -M^-1 g. "none": M = I.
            "diagonal": Adam's second moments (see `Diagonal`). "kronecker": K-FAC's factors of each linear and
            convolution layer, from the pass of the curvature, with tau as their damping (see `Kronecker`); needs
            curvature="gauss_newton". With cg_max_iter=1 the step is the one to the minimum along -M^-1 g.
        subspace: "last_step": the step is alpha p + beta s, with s the last change of the weights, to the minimum of
            the quadratic model over both (see `minimize_in_subspace`); needs curvature="gauss_newton", and two of its
            quadratic forms. With cg_max_iter=1, p is then -M^-1 g.
        subspace_every: the forms are computed in the first five steps and then at each so many, k; the steps between
            have those of running means (see `CurvatureEstimate`) with their own gradients. 1: in each step.
        damping_per_output: tau is multiplied with the factor that the loss of one output of a sample has in the loss
            of that sample: 1 / 784 of a mean over 784 pixels, and 1 of a sum or of cross-entropy. So one value is fit
            for losses of every scale; needs curvature="gauss_newton".
        loss_floor: the lowest value that the loss can take. Where the model of a subspace promises a loss below it, it
            does not hold so far, and the step p is shortened to c p, for which it promises just this value: with the
            decrease D = -g.p / 2 at p, (2c - c^2) D = loss - loss_floor. None: steps are as the model has them.
        weight_decay: the weights shrink by lr * weight_decay in every step; it enters neither the system nor momentum
            and backtracking (decoupled, Loshchilov and Hutter 2019, arXiv 1711.05101).

    Where the parameters are the weights and biases of linear classifiers whose inputs need no gradient, and the loss
    depends on them through `cross_entropy` of their logits and through `L2` alone, linearly in these, products with
    the Hessian are computed in closed form (see `softmax_hessian.LinearSoftmax`): the same numbers to rounding, and
    20 iterations for about the price of a step of Adam. The closed form is not used with curvature_share, warm_start,
    adapt_damping, backtracking, preconditioner or subspace.

    `step(closure)`: the closure returns the loss with its graph and does not call backward; no `.grad` is touched.
    `step()` after `loss.backward(create_graph=True)` differentiates the gradients in `.grad`, more slowly, and
    frees their graph (their values stay). A closure may as well call backward once and return no loss with a graph, as
    Lightning's do: the step then follows the gradients in `.grad`, and costs another backward pass.
    `scaler.step(optimizer)` of a torch.amp.GradScaler takes its factor out of gradients and curvature.

    Attributes:
        last_step: of the last step: `cg_iterations` (the largest number of any system); `residual` (norm over all
            systems; with cg_max_iter=1, where it would take a further product, that of the start, ||g||);
            `fallbacks` and `negative_curvature` (numbers of systems); `directional_derivative` (g.p); `step_length`
            (norm of the change of the weights, without their decay); `hvps` (products with the matrix, or quadratic
            forms); `gradient_equivalents` (the cost of the step beside its gradient, in gradients, by counting
            operations); `damping` and `reduction_ratio` with adapt_damping; `step_size` with backtracking;
            `alpha` and `beta` with subspace.

    Raises:
        ValueError: an argument is out of its range, or the closure returns no loss with a graph.
    """

    _has_closed_form = False  # in the last step

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        damping: float = 1e-2,
        cg_max_iter: int = 20,
        cg_tol: float = 1e-5,
        cg_tol_relative: bool = False,
        blocks: str = "all",
        curvature: str = "hessian",
        curvature_share: float = 1.0,
        warm_start: float = 0.0,
        momentum: float = 0.0,
        adapt_damping: bool = False,
        backtracking: int = 0,
        preconditioner: str = "none",
        subspace: str = "none",
        subspace_every: int = 1,
        damping_per_output: bool = False,
        loss_floor: float | None = None,
        weight_decay: float = 0.0,
    ):
        options = {k: v for k, v in locals().items() if k not in ("self", "params", "__class__")}
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Raises:
            ValueError: an option is unknown, out of its range, or cannot differ between groups.
        """
        options = {**self.defaults, **param_group}
        for name, is_valid, rule in (
            ("damping", 0 <= options["damping"] < math.inf, ">= 0 and finite"),
            ("cg_max_iter", is_integer(options["cg_max_iter"], 1), "an integer >= 1"),
            ("cg_tol", options["cg_tol"] >= 0, ">= 0"),
            ("blocks", options["blocks"] in BLOCKS, f"one of {', '.join(BLOCKS)}"),
            ("curvature", options["curvature"] in KINDS, f"one of {', '.join(KINDS)}"),
            ("curvature_share", 0 < options["curvature_share"] <= 1, "in (0, 1]"),
            ("warm_start", 0 <= options["warm_start"] <= 1, "in [0, 1]"),
            ("backtracking", is_integer(options["backtracking"], 0), "an integer >= 0"),
            ("preconditioner", options["preconditioner"] in PRECONDITIONERS, f"one of {', '.join(PRECONDITIONERS)}"),
            ("subspace", options["subspace"] in SUBSPACES, f"one of {', '.join(SUBSPACES)}"),
            ("subspace_every", is_integer(options["subspace_every"], 1), "an integer >= 1"),
            ("loss_floor", abs(options["loss_floor"] or 0.0) < math.inf, "a finite number, or None"),
        ):
            if not is_valid:
                raise ValueError(f"{name}={options[name]}: must be {rule}")
        for name in SHARED:
            if options[name] != self.defaults[name]:
                raise ValueError(f"{name}={options[name]}: cannot differ between groups")
        reason = conflict(options)
        if reason is not None:
            raise ValueError(reason)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[..., Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Makes a step; returns the loss, or None without a closure.

        Raises:
            FloatingPointError: the gradient or the curvature is not finite; weights are as they were, and so is the
                state, but for K-FAC's factors.
        """
        self.check_step()
        scale = self.loss_scale(closure)
        if scale is None:
            return None
        try:
            step = Step(self, closure, scale)
            self._make(step)
        except BaseException:
            self.release_graphs()
            raise
        self.last_step, self._has_closed_form = step.report, step.has_closed_form
        return step.loss

    def _make(self, step: Step) -> None:
        step.solve()
        decays = self.decays(step.trained)
        step.move()
        for p, change in decays:
            p.add_(change)

    @torch.no_grad()
    def record(self, closure: Callable[..., Tensor]) -> RecordedStep:
        """Makes a step that reads no number of the device: a CUDA graph can hold it.

        It makes all `cg_max_iter` iterations, and where conjugate gradients would have ended before, their result stays
        as it was (`torch.where`). Weights and state are changed in their places, to those of `step`. What the host
        counts, `count_step` counts after each replay. The learning rates of groups may be tensors () in float64.

        Args:
            closure: as of `step`; it returns the loss.

        Raises:
            ValueError: `reason_to_read` says why not; or before the first steps, which make the state.
        """
        reason = self.reason_to_read()
        if reason is not None:
            raise ValueError(reason)
        counts = [(of_param, k, of_param[k]) for of_param in self.state.values() for k in COUNTS if k in of_param]
        step = Step(self, closure, reads=False)
        self._make(step)
        for of_param, name, count in counts:
            of_param[name] = count
        return step.recorded()

    def count_step(self) -> None:
        """Counts a step that a graph has made."""
        for of_param in self.state.values():
            for name in COUNTS:
                if name in of_param:
                    of_param[name] += 1

    def reason_to_read(self) -> str | None:
        """Returns why no graph can hold the steps, or None where it can, but for those that `reads_next` tells."""
        if self._has_closed_form:
            return "the closed form of a linear classifier follows numbers of the batch"
        return reason_to_read(self.param_groups[0])

    def reads_next(self) -> bool:
        """Returns whether a graph cannot hold the next step.

        It updates K-FAC's factors, or computes the curvature in the subspace where most steps do not.
        """
        of_factors, of_subspace = (
            1 + max((of_param.get(name, 0) for of_param in self.state.values()), default=0) for name in COUNTS
        )
        options = self.param_groups[0]
        every = options["subspace_every"]
        is_of_batch = options["preconditioner"] == "kronecker" and follows_batch(of_factors)
        return is_of_batch or (every > 1 and computes_curvature(of_subspace, every))

    def check_parameters(self, params: list[Tensor]) -> None:
        """Raises ValueError if some are complex."""
        refuse_complex(params, "EHNewton")

    @property
    def needs_loss_function(self) -> bool:
        """Whether the closure must call a loss function of torch.nn.functional on a network's outputs."""
        return self.param_groups[0]["curvature"] == "gauss_newton"


def conflict(options: dict[str, Any]) -> str | None:
    """Returns which options contradict each other, and what would be right; None where none do."""
    for name in ("preconditioner", "subspace"):
        chosen = f"{name}={options[name]}"
        if options[name] == "none":
            continue
        if options["blocks"] != "all":
            return f"{chosen}: is of all parameters together; give blocks=all"
        if options[name] != "diagonal" and options["curvature"] != "gauss_newton":
            return f"{chosen}: is of the Gauss-Newton matrix; give curvature=gauss_newton"
    if options["damping_per_output"] and options["curvature"] != "gauss_newton":
        return "damping_per_output=true: needs the loss function of the outputs; give curvature=gauss_newton"
    if options["loss_floor"] is not None and options["subspace"] == "none":
        return f"loss_floor={options['loss_floor']}: bounds the step in a subspace; give subspace=last_step"
    if options["subspace_every"] > 1 and options["subspace"] == "none":
        return f"subspace_every={options['subspace_every']}: is of steps in a subspace; give subspace=last_step"
    if options["subspace"] != "none" and options["momentum"] > 0:
        return f"subspace={options['subspace']}: computes the momentum itself; give momentum=0"
    return None


def is_integer(value: object, minimum: int) -> bool:
    """Returns whether a value is an integer >= `minimum`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum
