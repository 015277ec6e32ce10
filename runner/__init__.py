"""The run that ties the rooms together: command line, loop, evaluation, checkpoints, records, comparison."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ensemble import evaluate_ensemble
    from .frames import load_run, load_runs
    from .landscapes import landscape
    from .sample_gradients import gradient_gram

__all__ = ["evaluate_ensemble", "gradient_gram", "landscape", "load_run", "load_runs"]

PLACES = {
    "evaluate_ensemble": "ensemble",
    "gradient_gram": "sample_gradients",
    "landscape": "landscapes",
    "load_run": "frames",
    "load_runs": "frames",
}


def __getattr__(name: str) -> Any:
    """Import pandas or torch when a function that needs it is first asked for: the command line starts without."""
    if name in PLACES:
        return getattr(import_module(f".{PLACES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
