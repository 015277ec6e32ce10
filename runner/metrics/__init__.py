"""Metrics of an evaluation: functions of the outputs and targets of a whole set (group `metric`).

May import objectives, records, config and system.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .accuracy import ConfusionMatrix, PerClassAccuracy, TopAccuracy
    from .calibration import CalibrationError
    from .metric import Metric
    from .rmse import RMSE

__all__ = ["RMSE", "CalibrationError", "ConfusionMatrix", "Metric", "PerClassAccuracy", "TopAccuracy"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "RMSE": "trainopt.runner.metrics.rmse",
        "CalibrationError": "trainopt.runner.metrics.calibration",
        "ConfusionMatrix": "trainopt.runner.metrics.accuracy",
        "Metric": "trainopt.runner.metrics.metric",
        "PerClassAccuracy": "trainopt.runner.metrics.accuracy",
        "TopAccuracy": "trainopt.runner.metrics.accuracy",
    },
)
