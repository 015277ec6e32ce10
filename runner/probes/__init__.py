"""Diagnostics: what is measured at some steps of a run (group `probe`).

May import state, config, system, data and optimizers.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from ..state.run import Probe
    from .fisher import FisherProbe
    from .gradient_noise import GradientNoiseProbe
    from .taylor import TaylorProbe
    from .training_loss import TrainingLossProbe

__all__ = ["FisherProbe", "GradientNoiseProbe", "Probe", "TaylorProbe", "TrainingLossProbe"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FisherProbe": "trainopt.runner.probes.fisher",
        "GradientNoiseProbe": "trainopt.runner.probes.gradient_noise",
        "Probe": "trainopt.runner.state.run",
        "TaylorProbe": "trainopt.runner.probes.taylor",
        "TrainingLossProbe": "trainopt.runner.probes.training_loss",
    },
)
