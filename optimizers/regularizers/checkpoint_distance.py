"""A repulsive regularizer: the loss is raised around earlier weights."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_choice
from ..protocols import Regularizer
from ..vectors import flatten
from .gaussian_hills import GaussianHills, gaussian
from .l2 import L2

UNITS = ("absolute", "snapshot_norm", "root_parameters")
LAYERS = ("all", "weights")


class CheckpointDistance(Regularizer):
    """A Gaussian hill of the loss around each snapshot of the weights, which repels training (von Bachmann 2020).

        s * sum_c exp(-||theta - theta_c||^2 / (2 sigma_c^2))

    (equations 2.4, 2.8 and 2.9), with the gradient -s / sigma_c^2 * exp(...) * (theta - theta_c) of each hill. At the
    snapshot itself the gradient is 0: the rest of the loss, or momentum, has to move the weights first. Far away value
    and gradient are exactly 0. Without a snapshot, or with `strength` set to 0, the term is 0 and has no graph.

    >>> penalty = CheckpointDistance(strength=3.0, sigma=0.5)
    >>> theta = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> penalty([theta]).item()
    0.0
    >>> penalty.snapshot([theta])
    >>> penalty([theta]).item(), round(penalty([theta + 0.5]).item(), 4)  # 3 / e
    (3.0, 1.1036)

    Args:
        strength: s; may be changed at any time.
        sigma: the width of a hill, in `units`.
        units: of `sigma`: absolute; snapshot_norm: ||theta_c||, so that the value depends on relative
            displacements alone; root_parameters: the square root of the number of parameters, with which the distance
            grows where every weight moves by the same amount.
        layers: `all` parameters, or the `weights` of convolution and linear layers only, as for L2.
        keep: the largest number of snapshots; the oldest is dropped. None: no limit.

    Raises:
        ValueError: an argument is out of its range; later, a snapshot is of other parameters, or all 0 where
            `units` is snapshot_norm.
    """

    def __init__(
        self,
        strength: float = 1.0,
        sigma: float = 1.0,
        units: str = "absolute",
        layers: str = "all",
        keep: int | None = 5,
    ):
        for name, value, is_valid, rule in (
            ("strength", strength, 0 <= strength < math.inf, ">= 0 and finite"),
            ("sigma", sigma, 0 < sigma < math.inf, "> 0 and finite"),
            ("keep", keep, keep is None or keep >= 1, ">= 1, or None"),
        ):
            if not is_valid:
                raise ValueError(f"{name}={value}: must be {rule}")
        check_choice("units", units, UNITS)
        check_choice("layers", layers, LAYERS)
        self.strength = strength
        self.sigma = sigma
        self.units = units
        self.layers = layers
        self.keep = keep
        self._set_snapshots(torch.empty(0, 0))

    def __len__(self) -> int:
        """Returns the number of snapshots."""
        return len(self._snapshots)

    def covers(self, layer: nn.Module, name: str) -> bool:
        """Returns whether the penalty applies to the parameter `name` of a layer."""
        return self.layers == "all" or L2.covers(layer, name)

    @torch.no_grad()
    def snapshot(self, params: Iterable[Tensor]) -> None:
        """Adds a copy of the parameters to the snapshots."""
        now = flatten(list(params))
        if now.is_complex():
            raise ValueError("parameters must be real; give view_as_real of complex ones")
        if self.units == "snapshot_norm" and not now.any():
            raise ValueError("units=snapshot_norm: the norm of the snapshot is 0; use other units")
        snapshots = torch.cat([self._snapshots_like(now), now[None]]) if len(self) else now[None]
        if self.keep is not None and len(snapshots) > self.keep:
            snapshots = snapshots[-self.keep :].clone()
        self._set_snapshots(snapshots)

    def __call__(self, params: Iterable[Tensor]) -> Tensor:
        """Returns the scalar to add to a loss."""
        params = list(params)
        if not len(self) or self.strength == 0:
            return params[0].new_zeros(())
        with torch.no_grad():
            differences = self._differences(params)
            heights = self.strength * gaussian(torch.linalg.vector_norm(differences, dim=1), self._widths)
        return GaussianHills.apply(differences, heights, self._widths, *params)

    @torch.no_grad()
    def distances(self, params: Iterable[Tensor]) -> Tensor:
        """Returns ||theta - theta_c|| for each snapshot (C,), the oldest first; needs at least one."""
        return torch.linalg.vector_norm(self._differences(params), dim=1)

    @property
    def widths(self) -> Tensor:
        """sigma_c in absolute units for each snapshot (C,)."""
        return self._widths

    @torch.no_grad()
    def report(self, params: Sequence[Tensor], value: Tensor) -> dict[str, Any]:
        """Returns metrics for a record; empty without snapshots.

        `distances` to each snapshot, the oldest first, `relative_distances` as fractions of the snapshot's norm,
        `nearest` and, in widths sigma_c, `nearest_in_sigma`; all of them at the parameters that `value` was computed
        with, or at `params` where it has no graph, as after strength = 0. With a graph, also `gradient`, the norm of
        the term's gradient, and, where `.grad` is set, `gradient_ratio`: that norm over the norm of the gradient of
        the rest of the loss, with respect to the same parameters.

        Args:
            params: of the call.
            value: its result.
        """
        if not len(self):
            return {}
        hills: Any = value.grad_fn
        differences = self._differences(params) if hills is None else hills.differences
        distances = torch.linalg.vector_norm(differences, dim=1)
        metrics = {
            "distances": distances.tolist(),
            "relative_distances": (distances / self._norms).tolist(),
            "nearest": distances.min().item(),
            "nearest_in_sigma": (distances / self._widths).min().item(),
        }
        if hills is not None:
            gradient = hills.gradient()
            metrics["gradient"] = gradient.norm().item()
            gradients = [p.grad for p in params if p.grad is not None]
            if len(gradients) == len(params):
                rest = flatten(gradients) - gradient
                metrics["gradient_ratio"] = (gradient.norm() / rest.norm()).item()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns the snapshots and the current strength."""
        return {"snapshots": self._snapshots, "strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state that `state_dict` returned.

        Raises:
            ValueError: it is the state of something else.
        """
        if not state.keys() >= {"snapshots", "strength"}:
            raise ValueError(f"the state is not one of CheckpointDistance: it has {', '.join(map(str, state))}")
        self._set_snapshots(state["snapshots"].clone())
        self.strength = state["strength"]

    def _set_snapshots(self, snapshots: Tensor) -> None:
        """Sets the snapshots (C, n), the oldest first, and the widths of their hills (C,)."""
        self._snapshots = snapshots
        self._norms = torch.linalg.vector_norm(snapshots, dim=1)
        unit = {"snapshot_norm": self._norms, "root_parameters": snapshots.shape[1] ** 0.5}.get(self.units, 1.0)
        self._widths = self.sigma * unit * torch.ones_like(self._norms)

    def _differences(self, params: Iterable[Tensor]) -> Tensor:
        now = flatten(list(params))
        return now - self._snapshots_like(now)

    def _snapshots_like(self, now: Tensor) -> Tensor:
        """Returns the snapshots, with the device and dtype of the parameters.

        Raises:
            ValueError: the number of parameters is another.
        """
        if self._snapshots.shape[1] != len(now):
            raise ValueError(f"{len(now)} parameters, and snapshots of {self._snapshots.shape[1]}: must be equal")
        if (self._snapshots.device, self._snapshots.dtype) != (now.device, now.dtype):
            self._set_snapshots(self._snapshots.to(now))
        return self._snapshots
