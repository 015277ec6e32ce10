"""Batch size and learning rate adjusted such that C_K and L_K follow those of another run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .growth_control import Bounds, GrowthController


class ReferenceTrajectory(NamedTuple):
    """C_K and L_K of a run, measured at increasing epochs; at least one measurement."""

    epochs: Sequence[float]
    C_K: Sequence[float]
    L_K: Sequence[float]


@dataclass(eq=False)
class FollowReference(GrowthController):
    """Keeps C_K and L_K on the trajectory of a reference run.

    "New models must navigate close to this reference model", says Liao et al. 2018 (section 3.1). At epoch e, h
    epochs after the last decision, with the reference's value L*, interpolated linearly between its measurements,
    the growth of L_K is to be between

        (L*(e + h) (1 - tolerance) - L_K) / h    and    (L*(e + h) (1 + tolerance) - L_K) / h

    so that at the next decision L_K is within a tolerance of the trajectory; the same of C_K. `GrowthController`
    describes what is adjusted, and by how much. Where the reference has no such epoch, nothing changes.

    Args:
        reference: the trajectory; in a configuration, the folder of a run with probe=[fisher].
        tolerance: largest relative deviation of C_K and L_K from the reference's.
        size, min_size, max_size, adjust, lr_bounds, factor, smoothing, every: as in `AdaptiveBatchSize`.
        persistency, drop_last, repeat_lr_factor, duration: as in `BatchUse`.
    """

    reference: ReferenceTrajectory
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._decided = 0.0  # epochs at the last decision

    def bounds(self) -> tuple[Bounds | None, Bounds | None] | None:
        """Returns the growth per epoch that leads to the trajectory; None where the reference has no such epoch."""
        assert self._last is not None  # measurements come before decisions
        epochs, *values = self._last
        ahead, self._decided = epochs - self._decided, epochs
        at, *trajectories = self.reference
        if not at[0] <= epochs + ahead <= at[-1]:
            return None
        factors = 1 - self.tolerance, 1 + self.tolerance
        C, L = (
            [(factor * np.interp(epochs + ahead, at, trajectory).item() - value) / ahead for factor in factors]
            for trajectory, value in zip(trajectories, values, strict=True)
        )
        return (C if "size" in self.adjust else None), L

    def state_dict(self) -> dict[str, Any]:
        """Returns the last change, the last decision, the moving average and the last measurement."""
        return {**super().state_dict(), "decided": self._decided}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        super().load_state_dict(state)
        self._decided = state["decided"]
