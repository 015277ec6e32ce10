"""Nesterov momentum whose learning rate is Polyak's step size."""

from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from .arguments import check_dense
from .checked import CheckedOptimizer

Bounds = tuple[float, float] | None

NO_SCHEDULER = "AdaptiveNesterov computes its learning rate at every step: leave the scheduler out"
WHY_A_CLOSURE = (
    "as loss and gradient are those at another point: step(closure), in Lightning's manual optimization too,"
    " where the closure clears the gradients, calls backward and returns the loss"
)

SHARED = ("gamma", "loss_floor", "lr_bounds", "grad_norm_sq_bounds")  # cannot differ between parameter groups


class AdaptiveNesterov(CheckedOptimizer):
    r"""Nesterov momentum with one learning rate for all parameters, computed at every step.

    theta' = theta - alpha v
    eta = gamma |L(theta') - f*| / ||g(theta')||^2
    v <- alpha v + eta g(theta')
    theta <- (1 - eta weight_decay) theta - v

    (Mandatelli 2018, equation 3.3.5.) ||g||^2 is clipped before it divides, then eta, as in that work's section
    3.4. The closure is called at theta', once a step, and the loss that `step` returns is the one there. Weight decay
    is decoupled (Loshchilov and Hutter 2019, arXiv 1711.05101): it enters neither eta nor v.

    Warning:
        eta is a good step size where the loss can fall to f*. Where f* lies below the lowest attainable loss (with
        regularizers, label smoothing or noise, and f* = 0), |L - f*| stays positive while ||g|| vanishes: near the
        minimum eta grows to the upper of `lr_bounds`, and without bounds the weights leave the minimum again. While
        `lr` is at a bound, this is Nesterov SGD with a constant learning rate.

    >>> w = torch.nn.Parameter(torch.tensor([6.0, 8.0]))
    >>> optimizer = AdaptiveNesterov([w], momentum=0.0, lr_bounds=None)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = w.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(3):
    ...     print(optimizer.step(closure).item(), w.tolist(), optimizer.last_step["lr"])
    50.0 [3.0, 4.0] 0.5
    12.5 [1.5, 2.0] 0.5
    3.125 [0.75, 1.0] 0.5

    Args:
        params: parameters or groups of them; a group may have its own `momentum` and `weight_decay`.
        momentum: alpha, in [0, 1).
        gamma: factor on the step size, > 0; below 2 for Polyak's method on convex functions.
        loss_floor: f*, the lowest value that the loss can take.
        lr_bounds: (low, high) to which eta is clipped; None: no bounds.
        grad_norm_sq_bounds: (low, high) to which ||g||^2, over all parameters together, is clipped; None: no bounds.
        weight_decay: the parameters shrink by eta * weight_decay in every step.

    Attributes:
        last_step: of the last step, as floats: `lr` (eta, also in `param_groups`), `unclipped_lr` (before
            `lr_bounds`), `grad_norm_sq` (before its bounds), and `lr_is_clipped`, `grad_norm_sq_is_clipped` (0 or
            1).

    Raises:
        ValueError: an argument is out of its range, a group has an unknown option or its own value of one that cannot
            differ between groups, `step` is called without a closure, or a scheduler sets the learning rate.
    """

    sets_lr = True  # it overwrites the learning rate of a schedule

    def __init__(
        self,
        params: Iterable[Any],
        momentum: float = 0.9,
        gamma: float = 1.0,
        loss_floor: float = 0.0,
        lr_bounds: Bounds = (1e-3, 0.1),
        grad_norm_sq_bounds: Bounds = (1e-4, 1e10),
        weight_decay: float = 0.0,
    ):
        if not gamma > 0:
            raise ValueError(f"gamma={gamma}: must be > 0")
        if not abs(loss_floor) < float("inf"):
            raise ValueError(f"loss_floor={loss_floor}: must be a finite number")
        for name, bounds in (("lr_bounds", lr_bounds), ("grad_norm_sq_bounds", grad_norm_sq_bounds)):
            if bounds is not None and not (len(bounds) == 2 and 0 <= bounds[0] <= bounds[1]):
                raise ValueError(f"{name}={bounds}: must be (low, high) with 0 <= low <= high, or None")
        lr_bounds, grad_norm_sq_bounds = (b and (b[0], b[1]) for b in (lr_bounds, grad_norm_sq_bounds))
        values = (gamma, loss_floor, lr_bounds, grad_norm_sq_bounds)
        shared = dict(zip(SHARED, values, strict=True))
        super().__init__(params, {"momentum": momentum, **shared, "weight_decay": weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of parameters, as `{"params": ..., "momentum": ...}`."""
        for name in ("lr", *(n for n in SHARED if param_group.get(n, self.defaults[n]) != self.defaults[n])):
            if name in param_group:
                raise ValueError(
                    f"{name}={param_group[name]}: cannot differ between groups; only momentum and weight_decay can"
                )
        super().add_param_group(_Group(param_group))

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.param_groups = [_Group(group) for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
        """Makes an update; returns the loss at theta'.

        Parameters without a gradient are unchanged. Where the closure raises an error, parameters and state are
        unchanged, bit for bit.

        Args:
            closure: clears the gradients, computes the loss (a scalar), calls `backward` and returns the loss.

        Raises:
            FloatingPointError: loss or gradient is not finite; parameters and state are as they were.
        """
        if closure is None:
            raise ValueError(f"AdaptiveNesterov.step: needs a closure, {WHY_A_CLOSURE}")
        self.check_step()
        loss = self._look_ahead(closure)
        used = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        gradients = [p.grad for params in used for p in params]
        if not gradients:
            return loss
        if loss is None:
            raise ValueError(f"AdaptiveNesterov.step: the closure must return the loss, {WHY_A_CLOSURE}")
        check_dense(gradients)
        norms = torch._foreach_norm(gradients)
        grad_norm_sq = torch.stack([n.to(norms[0].device) for n in norms]).double().square().sum()
        # only `tolist` makes the host wait for the device
        value = torch.as_tensor(loss, dtype=torch.float64, device=grad_norm_sq.device).reshape(())
        eta = self._learning_rate(*torch.stack([value, grad_norm_sq]).tolist())
        for group, params in zip(self.param_groups, used, strict=True):
            group["lr"] = eta
            if params:
                for p in params:
                    if "v" not in self.state[p]:
                        self.state[p]["v"] = torch.zeros_like(p)
                v = [self.state[p]["v"] for p in params]
                torch._foreach_mul_(v, group["momentum"])
                torch._foreach_add_(v, [p.grad for p in params], alpha=eta)
                if group["weight_decay"] != 0:
                    torch._foreach_mul_(params, 1 - eta * group["weight_decay"])
                torch._foreach_sub_(params, v)
        return loss

    def check_step(self) -> None:
        """Raises ValueError if an option is out of its range, or a scheduler has set the learning rate."""
        super().check_step()
        eta = self.last_step.get("lr")
        if eta is not None and any(group.get("lr", eta) != eta for group in self.param_groups):
            raise ValueError(NO_SCHEDULER)

    def _look_ahead(self, closure: Callable[[], Tensor]) -> Tensor:
        """Returns the closure's loss at theta'; the parameters are theta again afterwards."""
        thetas: list[Tensor] = []
        originals: list[Tensor] = []
        try:
            for group in self.param_groups:
                params = [p for p in group["params"] if "v" in self.state.get(p, ())]
                if params and group["momentum"] != 0:
                    copies = [torch.empty_like(p) for p in params]
                    torch._foreach_copy_(copies, params)  # adding alpha v again would not give the same bits
                    thetas, originals = [*thetas, *params], [*originals, *copies]
                    torch._foreach_sub_(params, [self.state[p]["v"] for p in params], alpha=group["momentum"])
            with torch.enable_grad():
                return closure()
        finally:
            if thetas:
                torch._foreach_copy_(thetas, originals)

    def _learning_rate(self, loss: float, grad_norm_sq: float) -> float:
        """Returns eta, and sets `last_step`."""
        for name, value in (("loss", loss), ("squared norm of the gradient", grad_norm_sq)):
            if not isfinite(value):
                raise FloatingPointError(f"the {name} is {value}")
        gamma, f, lr_bounds, norm_bounds = (self.param_groups[0][name] for name in SHARED)
        divisor = clip(grad_norm_sq, norm_bounds)
        unclipped = gamma * abs(loss - f) / divisor if divisor != 0 else 0.0  # without a gradient, no step along it
        eta = clip(unclipped, lr_bounds)
        self.last_step = {
            "lr": eta,
            "unclipped_lr": unclipped,
            "lr_is_clipped": float(eta != unclipped),
            "grad_norm_sq": grad_norm_sq,
            "grad_norm_sq_is_clipped": float(divisor != grad_norm_sq),
        }
        return eta


class _Group(dict[str, Any]):
    """A parameter group without a learning rate until the first step: torch's schedulers get an error."""

    def __missing__(self, key: str) -> Any:
        if key == "lr":
            raise ValueError(NO_SCHEDULER)
        raise KeyError(key)


def clip(value: float, bounds: Bounds) -> float:
    """Returns the value, or the bound that it exceeds; nan stays nan."""
    if bounds is None:
        return value
    low, high = bounds
    return min(max(value, low), high)
