"""Pushing weights away from where they were."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import check_choice
from ..protocols import Regularizer
from ..vectors import flatten
from .gaussian_hills import Hills, height
from .l2 import L2

UNITS = ("absolute", "snapshot_norm", "root_parameters")
LAYERS = ("all", "weights")


class CheckpointDistance(Regularizer):
    """A hill of the loss on each snapshot of the weights, from which training rolls down (von Bachmann 2020).

        s * sum_c exp(-||theta - theta_c||^2 / (2 sigma_c^2))

    (equations 2.4, 2.8 and 2.9) with the gradient -s / sigma_c^2 * exp(...) * (theta - theta_c) of each hill. At a
    snapshot itself that is 0: the first push comes from the rest of the loss, or from momentum. Far away value and
    gradient are exactly 0. Without a snapshot, or with `strength` set to 0, the term is 0 and has no graph.

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
            displacements alone; root_parameters: the root of the number of parameters, as the distance grows where
            every weight moves alike.
        layers: `all` parameters, or the `weights` of convolution and linear layers only, as those of L2.
        keep: at most so many snapshots; the oldest goes. None: all stay.

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
        for name, value, right, rule in (
            ("strength", strength, strength >= 0, ">= 0"),
            ("sigma", sigma, sigma > 0, "> 0"),
            ("keep", keep, keep is None or keep >= 1, ">= 1, or None"),
        ):
            if not right:
                raise ValueError(f"{name}={value}: must be {rule}")
        check_choice("units", units, UNITS)
        check_choice("layers", layers, LAYERS)
        self.strength = strength
        self.sigma = sigma
        self.units = units
        self.layers = layers
        self.keep = keep
        self._set(torch.empty(0, 0))

    def __len__(self) -> int:
        """Returns the number of snapshots."""
        return len(self._snapshots)

    def covers(self, layer: nn.Module, name: str) -> bool:
        """Returns whether the parameter `name` of a layer is one that the penalty is meant for."""
        return self.layers == "all" or L2.covers(layer, name)

    @torch.no_grad()
    def snapshot(self, params: Sequence[Tensor]) -> None:
        """Keeps a copy of the parameters, to be pushed away from."""
        now = flatten(params)
        if self.units == "snapshot_norm" and not now.any():
            raise ValueError("units=snapshot_norm: the norm of the snapshot is 0; use other units")
        kept = torch.cat([self._snapshots_at(now), now[None]]) if len(self) else now[None]
        self._set(kept[-self.keep :].clone() if self.keep and len(kept) > self.keep else kept)

    def __call__(self, params: Sequence[Tensor]) -> Tensor:
        """Returns the scalar to add to a loss."""
        if not len(self) or self.strength == 0:
            return params[0].new_zeros(())
        with torch.no_grad():
            differences = self._differences(params)
            heights = self.strength * height(torch.linalg.vector_norm(differences, dim=1), self._widths)
        return Hills.apply(differences, heights, self._widths, *params)

    @torch.no_grad()
    def distances(self, params: Sequence[Tensor]) -> Tensor:
        """Returns ||theta - theta_c|| for each snapshot (C,), the oldest first; not before there is one."""
        return torch.linalg.vector_norm(self._differences(params), dim=1)

    @property
    def widths(self) -> Tensor:
        """sigma_c in absolute units for each snapshot (C,)."""
        return self._widths

    @torch.no_grad()
    def report(self, params: Sequence[Tensor], value: Tensor) -> dict[str, Any]:
        """Returns figures for a row; empty without snapshots.

        `distances` to each snapshot, the oldest first, `relative_distances` as shares of the snapshot's norm,
        `nearest` and, in widths sigma_c, `nearest_in_sigma`; all of them where `value` was computed, and, where
        that has no graph as after strength = 0, at `params`. With a graph, also `gradient`, the norm of the
        term's gradient, and, where `.grad` holds the whole loss's, `gradient_ratio`: that norm over the norm of
        the gradient of the rest of the loss, with respect to the same parameters.

        Args:
            params: as in the call.
            value: what the call returned.
        """
        if not len(self):
            return {}
        hills: Any = value.grad_fn
        differences = self._differences(params) if hills is None else hills.differences
        distances = torch.linalg.vector_norm(differences, dim=1)
        row = {
            "distances": distances.tolist(),
            "relative_distances": (distances / self._norms).tolist(),
            "nearest": distances.min().item(),
            "nearest_in_sigma": (distances / self._widths).min().item(),
        }
        if hills is not None:
            own = hills.slope()
            row["gradient"] = own.norm().item()
            gradients = [p.grad for p in params if p.grad is not None]
            if len(gradients) == len(params):
                row["gradient_ratio"] = (own.norm() / (flatten(gradients) - own).norm()).item()
        return row

    def state_dict(self) -> dict[str, Any]:
        """Returns the snapshots, and the strength as it is now."""
        return {"snapshots": self._snapshots, "strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        self._set(state["snapshots"].clone())
        self.strength = state["strength"]

    def _set(self, snapshots: Tensor) -> None:
        """Keeps snapshots (C, n), the oldest first, and how wide their hills are (C,)."""
        self._snapshots = snapshots
        self._norms = torch.linalg.vector_norm(snapshots, dim=1)
        unit = {"snapshot_norm": self._norms, "root_parameters": snapshots.shape[1] ** 0.5}.get(self.units, 1.0)
        self._widths = self.sigma * unit * torch.ones_like(self._norms)

    def _differences(self, params: Sequence[Tensor]) -> Tensor:
        now = flatten(params)
        return now - self._snapshots_at(now)

    def _snapshots_at(self, now: Tensor) -> Tensor:
        """Returns the snapshots, moved to where the parameters are; ValueError if they are of other ones."""
        if self._snapshots.shape[1] != len(now):
            raise ValueError(f"{len(now)} parameters, and snapshots of {self._snapshots.shape[1]}: must be as many")
        if (self._snapshots.device, self._snapshots.dtype) != (now.device, now.dtype):
            self._set(self._snapshots.to(now))
        return self._snapshots
