"""The run that ties the rooms together: command line, loop, evaluation, checkpoints, records, comparison."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainopt.optimizers.per_sample.gram import gradient_gram

    from .analysis.ensemble import evaluate_ensemble
    from .analysis.landscape import landscape
    from .records.frames import load_run, load_runs

__all__ = ["evaluate_ensemble", "gradient_gram", "landscape", "load_run", "load_runs"]

PLACES = {
    "evaluate_ensemble": "trainopt.runner.analysis.ensemble",
    "gradient_gram": "trainopt.optimizers.per_sample.gram",
    "landscape": "trainopt.runner.analysis.landscape",
    "load_run": "trainopt.runner.records.frames",
    "load_runs": "trainopt.runner.records.frames",
}


def __getattr__(name: str) -> Any:
    """Imports pandas or torch when a function that needs it is first asked for: the command line starts without."""
    if name in PLACES:
        return getattr(import_module(PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
