"""The run that ties the rooms together: command line, loop, evaluation, checkpoints, records, comparison."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .frames import load_run, load_runs
    from .sample_gradients import gradient_gram

__all__ = ["gradient_gram", "load_run", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas and torch when they are first asked for: the command line starts without."""
    if name == "gradient_gram":
        from .sample_gradients import gradient_gram

        return gradient_gram
    if name in __all__:
        from . import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
