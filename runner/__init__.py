"""The run that ties the rooms together: command line, loop, evaluation, checkpoints, records, comparison."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .frames import load_run, load_runs

__all__ = ["load_run", "load_runs"]


def __getattr__(name: str) -> Any:
    """Import pandas when it is first asked for: the command line starts without."""
    if name in __all__:
        from . import frames

        return getattr(frames, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
