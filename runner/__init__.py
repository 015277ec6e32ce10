"""The command line and everything behind it; functions and classes of it for programs and for `_target_`.

May import commands, analysis, records, regularizers, system and optimizers.
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

__all__ = [
    "Logger",
    "RunError",
    "ScheduledCheckpointDistance",
    "TensorBoard",
    "UserError",
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
        "RunError": "trainopt.runner.records.frames",
        "ScheduledCheckpointDistance": "trainopt.runner.regularizers.checkpoint_distance",
        "TensorBoard": "trainopt.runner.records.tensorboard",
        "UserError": "trainopt.runner.system.errors",
        "evaluate_ensemble": "trainopt.runner.analysis.ensemble",
        "gradient_gram": "trainopt.optimizers",
        "landscape": "trainopt.runner.analysis.landscape",
        "load_run": "trainopt.runner.records.frames",
        "load_runs": "trainopt.runner.records.frames",
        "train": "trainopt.runner.commands.train",
    },
)
