"""Losses: what is minimised, as a function of a network's outputs and of targets (group `objective`).

May import config and system.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .binary_cross_entropy import BinaryCrossEntropy
    from .cross_entropy import CrossEntropy
    from .loss import Loss
    from .mean_squared_error import MeanSquaredError

__all__ = ["BinaryCrossEntropy", "CrossEntropy", "Loss", "MeanSquaredError"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BinaryCrossEntropy": "trainopt.runner.objectives.binary_cross_entropy",
        "CrossEntropy": "trainopt.runner.objectives.cross_entropy",
        "Loss": "trainopt.runner.objectives.loss",
        "MeanSquaredError": "trainopt.runner.objectives.mean_squared_error",
    },
)
