"""The run that ties the rooms together: command line, loop, evaluation, checkpoints, records, comparison."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ensemble import evaluate_ensemble
    from .frames import load_run, load_runs

__all__ = ["evaluate_ensemble", "load_run", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas or torch when it is first asked for: the command line starts without."""
    if name == "evaluate_ensemble":
        from . import ensemble

        return ensemble.evaluate_ensemble
    if name in __all__:
        from . import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
