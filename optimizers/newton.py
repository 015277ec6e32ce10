"""Newton's method with the exact Hessian as a matrix, for small networks and test functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad
from torch.optim import Optimizer


class Newton(Optimizer):
    """Newton's method: with the whole Hessian, the step to where the gradient's linear model is zero.

        theta <- theta - lr (H + damping I)^-1 g

    with g the gradient and H the exact Hessian of the loss, over all parameters of all groups together. Where
    H + damping I is singular to working precision, the step is the least-squares one of least norm. Menssen 2019,
    appendix B, with lr = 1 and damping = 0. (Its notebook stops when sqrt(x_start @ x_sought) is small, where its
    text means the step's length ||x_sought - x_start||: `last_step["step_length"]`.)

    The closure returns the loss with its graph and does not call `backward`; no `.grad` is touched. Parameters
    that are frozen or that the loss does not depend on stay, and are no part of H. A Hessian that is not finite
    makes the step nan, as a gradient that is not finite does elsewhere.

    >>> theta = torch.tensor([5.0, 3.0], dtype=torch.float64, requires_grad=True)
    >>> optimizer = Newton([theta])
    >>> optimizer.step(lambda: 5 + 3 * theta.square().sum()).item()
    107.0
    >>> theta.tolist()
    [0.0, 0.0]
    >>> optimizer.last_step["hvps"], optimizer.last_step["directional_derivative"]
    (2, -204.0)

    Known failure: what it finds is a stationary point, which may as well be a saddle point or a maximum;
    `last_step["negative_eigenvalues"] > 0` says that the model has no minimum.

    Args:
        params: tensors, or groups of them, each with an `lr` and a `damping` of its own where wanted.
        lr: share of the step that is made.
        damping: >= 0, added to the Hessian's diagonal. As it grows the steps become short ones along -g.
        max_parameters: the most that are allowed. Memory grows as the square, time as the cube of their number.

    Attributes:
        last_step: of the last step: `hvps` (rows of the Hessian), `step_length` (norm of the step, lr included),
            `directional_derivative` (g times the step), `singular` (1 where the step is the least-squares one,
            else 0), `negative_eigenvalues` (how many H + damping I has).

    Raises:
        ValueError: lr or damping is negative, or there are too many parameters.
    """

    needs_graph = True

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        damping: float = 0.0,
        max_parameters: int = 2000,
    ):
        self.last_step: dict[str, float] = {}
        super().__init__(params, {"lr": lr, "damping": damping, "max_parameters": max_parameters})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.last_step = {}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters; ValueError if they become too many, or its lr or damping is negative."""
        super().add_param_group(param_group)
        for key in ("lr", "damping"):
            if self.param_groups[-1][key] < 0:
                raise ValueError(f"{key}={self.param_groups[-1][key]}: must be >= 0")
        self._trained()

    def _trained(self) -> list[tuple[Tensor, dict[str, Any]]]:
        """Returns the parameters that are not frozen, each with its group."""
        found = [(p, group) for group in self.param_groups for p in group["params"] if p.requires_grad]
        count = sum(p.numel() for p, _ in found)
        most = self.defaults["max_parameters"]
        if count > most:
            raise ValueError(
                f"newton: {count:,} parameters are more than max_parameters={most}: their Hessian"
                " is a matrix with as many rows and columns; use ehnewton, which needs none"
            )
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """Makes a step and returns the loss before it.

        Args:
            closure: returns the loss, a scalar with its graph; called once.
        """
        with torch.enable_grad():
            loss = closure()
            trained = self._trained()
            gradients = grad(loss, [p for p, _ in trained], create_graph=True, allow_unused=True)
            used = [(p, group, g) for (p, group), g in zip(trained, gradients, strict=True) if g is not None]
            params = [p for p, _, _ in used]
            if not params:
                raise ValueError("newton: the loss depends on none of the parameters")
            gradient = torch.cat([g.reshape(-1) for _, _, g in used])
            hessian = hessian_matrix(gradient, params)
        gradient = gradient.detach()
        hessian.diagonal().add_(torch.cat([p.new_full((p.numel(),), group["damping"]) for p, group, _ in used]))
        move, singular, negative = newton_step(hessian, gradient)
        move *= torch.cat([p.new_full((p.numel(),), float(group["lr"])) for p, group, _ in used])
        for p, part in zip(params, move.split([p.numel() for p in params]), strict=True):
            p.add_(part.view_as(p))
        self.last_step = {
            "hvps": len(gradient),
            "step_length": torch.linalg.vector_norm(move).item(),
            "directional_derivative": (gradient @ move).item(),
            "singular": int(singular),
            "negative_eigenvalues": negative,
        }
        return loss.detach()


def hessian_matrix(gradient: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Returns the matrix (n, n) of the derivatives of a gradient (n,) that has its graph, row by row.

    Args:
        gradient: with respect to params, flattened; its graph is freed.
        params: tensors with n elements together.
    """
    n = len(gradient)
    if not gradient.requires_grad:  # a linear loss
        return gradient.new_zeros(n, n)
    rows = []
    for i in range(n):
        row = grad(gradient[i], params, retain_graph=i < n - 1, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.reshape(-1) for part in row]))
    return torch.stack(rows)


def newton_step(matrix: Tensor, gradient: Tensor) -> tuple[Tensor, bool, int]:
    """Returns -matrix^-1 gradient, whether the matrix is singular, and how many negative eigenvalues it has.

    Eigenvalues of a size below n eps times the largest count as zero, as in torch.linalg.matrix_rank; there the
    step is the least-squares solution of least norm.

    Args:
        matrix: (n, n), symmetric.
        gradient: (n,).
    """
    if not (matrix.isfinite().all() and gradient.isfinite().all()):
        return torch.full_like(gradient, torch.nan), False, 0
    values, vectors = torch.linalg.eigh(matrix)
    sizes = values.abs()
    kept = sizes > len(values) * torch.finfo(values.dtype).eps * sizes.max()
    coordinates = torch.where(kept, vectors.T @ gradient / torch.where(kept, values, 1.0), 0.0)
    return -(vectors @ coordinates), not bool(kept.all()), int((kept & (values < 0)).sum())
