"""The command line and everything behind it; functions and classes of it for programs and for `_target_`.

May import commands, analysis, records, regularizers, trackers, system and optimizers.
"""

from typing import TYPE_CHECKING

from .system.lazy import lazy_names

if TYPE_CHECKING:
    from trainopt.optimizers import gradient_gram

    from .analysis.ensemble import evaluate_ensemble
    from .analysis.landscape import landscape
    from .commands.train import train
    from .records.frames import RunError, load_run, load_runs
    from .records.logger import Logger
    from .records.tensorboard import TensorBoard
    from .regularizers.checkpoint_distance import ScheduledCheckpointDistance
    from .system.errors import UserError
    from .trackers.mlflow_store import MLflow
    from .trackers.tracker import Tracker
    from .trackers.trackio_board import Trackio
    from .trackers.weights_and_biases import WandB

__all__ = [
    "Logger",
    "MLflow",
    "RunError",
    "ScheduledCheckpointDistance",
    "TensorBoard",
    "Tracker",
    "Trackio",
    "UserError",
    "WandB",
    "evaluate_ensemble",
    "gradient_gram",
    "landscape",
    "load_run",
    "load_runs",
    "train",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Logger": "trainopt.runner.records.logger",
        "MLflow": "trainopt.runner.trackers.mlflow_store",
        "RunError": "trainopt.runner.records.frames",
        "ScheduledCheckpointDistance": "trainopt.runner.regularizers.checkpoint_distance",
        "TensorBoard": "trainopt.runner.records.tensorboard",
        "Tracker": "trainopt.runner.trackers.tracker",
        "Trackio": "trainopt.runner.trackers.trackio_board",
        "UserError": "trainopt.runner.system.errors",
        "WandB": "trainopt.runner.trackers.weights_and_biases",
        "evaluate_ensemble": "trainopt.runner.analysis.ensemble",
        "gradient_gram": "trainopt.optimizers",
        "landscape": "trainopt.runner.analysis.landscape",
        "load_run": "trainopt.runner.records.frames",
        "load_runs": "trainopt.runner.records.frames",
        "train": "trainopt.runner.commands.train",
    },
)
