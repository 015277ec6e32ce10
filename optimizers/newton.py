"""Newton's method with the exact Hessian as a matrix, for small networks and test functions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad

from .arguments import check_dense
from .checked import SecondOrderOptimizer, has_graph, refuse_complex
from .compat_torch import twice_differentiable
from .curvature.backward_recorder import BackwardRecorder
from .curvature.loss import NO_GRAPH, check_loss, gradient_with_graph, second_derivative
from .vectors import flatten, per_element, unflatten


class Newton(SecondOrderOptimizer):
    """Newton's method with the whole Hessian: the step to the zero of the gradient's linear model.

        theta <- (1 - lr weight_decay) theta - lr (H + damping I)^-1 g

    with g the gradient and H the exact Hessian of the loss, over all parameters of all groups together. Where
    H + damping I is singular to working precision, the step is the least-squares one of least norm. Menssen 2019,
    appendix B, with lr = 1 and damping = 0. (Its notebook stops when sqrt(x_start @ x_sought) is small, where its
    text means the step's length ||x_sought - x_start||: `last_step["step_length"]`.)

    The closure returns the loss with its graph and does not call `backward`; no `.grad` is touched. `step()` after
    `loss.backward(create_graph=True)` takes the gradients in `.grad` and frees their graph. Parameters that are frozen
    or that the loss does not depend on are unchanged, and not part of H.

    >>> theta = torch.tensor([5.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> optimizer = Newton([theta])
    >>> optimizer.step(lambda: 5 + 3 * theta.square().sum()).item()
    107.0
    >>> theta.tolist()
    [0.0, 0.0]
    >>> optimizer.last_step["hvps"], optimizer.last_step["directional_derivative"]
    (2, -204.0)

    Known failure: it converges to a stationary point, which may be a saddle point or a maximum;
    `last_step["negative_eigenvalues"] > 0` shows that the quadratic model has no minimum.

    Args:
        params: tensors, or groups of them; a group may have its own `lr`, `damping` and `weight_decay`.
        lr: factor on the step.
        damping: >= 0, added to the Hessian's diagonal. As it grows, the steps become short ones along -g.
        max_parameters: the largest number allowed. Memory grows as the square, time as the cube of their number.
        weight_decay: the parameters shrink by lr * weight_decay in every step; it enters neither g nor H (decoupled,
            Loshchilov and Hutter 2019, arXiv 1711.05101).

    Attributes:
        last_step: of the last step: `hvps` (rows of the Hessian), `step_length` (norm of the step, lr included),
            `directional_derivative` (g times the step), `singular` (1 where the step is the least-squares one,
            else 0), `negative_eigenvalues` (their number in H + damping I).

    Raises:
        ValueError: lr or damping is negative, or there are too many parameters.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        damping: float = 0.0,
        max_parameters: int = 2000,
        weight_decay: float = 0.0,
    ):
        options = {"lr": lr, "damping": damping, "max_parameters": max_parameters, "weight_decay": weight_decay}
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters.

        Raises:
            ValueError: there are too many parameters, or an option is unknown or out of its range.
        """
        damping = param_group.get("damping", self.defaults["damping"])
        if not 0 <= damping < math.inf:
            raise ValueError(f"damping={damping}: must be >= 0 and finite")
        super().add_param_group(param_group)

    def check_parameters(self, params: list[Tensor]) -> None:
        """Raises ValueError if some are complex, or all together are too many."""
        refuse_complex(params, "newton")
        self._trained_parameters()

    def _trained_parameters(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """Returns the parameters that are not frozen, each with its group."""
        pairs = [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]
        count, largest = sum(p.numel() for p, _ in pairs), self.defaults["max_parameters"]
        if count > largest:
            raise ValueError(
                f"newton: {count:,} parameters are more than max_parameters={largest}: their Hessian"
                " is a matrix with as many rows and columns; use ehnewton, which needs none"
            )
        return pairs

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Makes a step and returns the loss before it.

        Args:
            closure: returns the loss, a scalar with its graph, or calls backward itself; called once. None, or a
                closure that does neither: the gradients in `.grad` are meant, as `loss.backward(create_graph=True)`
                leaves them.

        Raises:
            FloatingPointError: the gradient or the Hessian is not finite; the parameters are as they were.
        """
        self.check_step()
        scale = self.loss_scale(closure)
        if scale is None:
            return None
        try:
            recorder = BackwardRecorder([p for p, _ in self._trained_parameters()])
            with torch.enable_grad():
                with twice_differentiable(), recorder:
                    loss = closure() if closure is not None else None
                if closure is not None and loss is None and all(p.grad is None for p, _ in self._trained_parameters()):
                    return None  # as where Lightning's training_step returns None
                used = self._gradients(recorder.loss_of_closure(loss), closure is not None)
                params = [p for p, _, _ in used]
                gradient = flatten([g for _, _, g in used])
                hessian = hessian_matrix(gradient, params) / scale
            if recorder.loss_of_backward is not None:
                gradient = flatten([g if p.grad is None else p.grad for p, _, g in used])  # as clipped
        finally:
            self.release_graphs()
        dtype = torch.promote_types(gradient.dtype, torch.float32)  # no eigenvalues in half precision
        gradient, hessian = self.shard.sum([gradient.detach().to(dtype) / scale, hessian.to(dtype)])
        hessian.diagonal().add_(per_element(params, [group["damping"] for _, group, _ in used]))
        step, is_singular, negative = newton_step(hessian, gradient)
        step *= per_element(params, [float(group["lr"]) for _, group, _ in used])
        decays = self.decays(params)
        for p, part in zip(params, unflatten(step, params), strict=True):
            p.add_(part)
        for p, change in decays:
            p.add_(change)
        self.last_step = {
            "hvps": len(gradient),
            "step_length": torch.linalg.vector_norm(step).item(),
            "directional_derivative": (gradient @ step).item(),
            "singular": int(is_singular),
            "negative_eigenvalues": negative,
        }
        return loss.detach() if isinstance(loss, Tensor) else loss

    def _gradients(self, loss: Any, has_closure: bool) -> list[tuple[Tensor, dict[str, Any], Tensor]]:
        """Returns the parameters that a loss depends on, each with its group and its gradient, which has its graph.

        Args:
            loss: of the closure; without a graph, the gradients are those in `.grad`.
            has_closure: whether there is a closure.
        """
        trained = self._trained_parameters()
        params = [p for p, _ in trained]
        if not (isinstance(loss, Tensor) and loss.requires_grad) and has_graph(params):
            gradients = [p.grad for p in params]
        elif not has_closure:
            raise ValueError(NO_GRAPH)
        else:
            check_loss(loss)
            gradients = list(gradient_with_graph(loss, params))
        check_dense(gradients)
        used = [(p, group, g) for (p, group), g in zip(trained, gradients, strict=True) if g is not None]
        if not used:
            raise ValueError("newton: the loss depends on none of the parameters")
        return used


def hessian_matrix(gradient: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Returns the Hessian (n, n), row by row, from a gradient (n,) with its graph.

    Args:
        gradient: with respect to params, flattened; its graph is freed.
        params: tensors with n elements together.
    """
    n = len(gradient)
    if not gradient.requires_grad:  # a linear loss
        return gradient.new_zeros(n, n)
    rows = []
    for i in range(n):
        with second_derivative():
            row = grad(gradient[i], params, retain_graph=i < n - 1, allow_unused=True, materialize_grads=True)
        rows.append(flatten(row))
    return torch.stack(rows)


def newton_step(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, bool, int]:
    """Returns -matrix^-1 gradient, whether the matrix is singular, and its number of negative eigenvalues.

    Eigenvalues of an absolute value below n eps times the largest count as zero, as in torch.linalg.matrix_rank; where
    there are some, the step is the least-squares solution of least norm.

    Args:
        matrix: (n, n), symmetric.
        gradient: (n,).

    Raises:
        FloatingPointError: one of them is not finite, or the eigenvalues cannot be computed.
    """
    for name, values in (("gradient", gradient), ("Hessian", matrix)):
        if not values.isfinite().all():
            raise FloatingPointError(f"the {name} is not finite")
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:  # as on a path that diverges: no step is to be had
        raise FloatingPointError("the eigenvalues of the Hessian cannot be computed") from error
    sizes = values.abs()
    nonzero = sizes > len(values) * torch.finfo(values.dtype).eps * sizes.max()
    coordinates = torch.where(nonzero, vectors.T @ gradient / torch.where(nonzero, values, 1.0), 0.0)
    return -(vectors @ coordinates), not bool(nonzero.all()), int((nonzero & (values < 0)).sum())
