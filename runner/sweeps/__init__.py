"""Sweeps: their jobs, composing and running them, the job table on screen, learning-rate search, tournament.

May import training, reporting, records, config and system.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .lr_heuristic import LRHeuristicSweeper
    from .tournament import TournamentSweeper

__all__ = ["LRHeuristicSweeper", "TournamentSweeper"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "LRHeuristicSweeper": "trainopt.runner.sweeps.lr_heuristic",
        "TournamentSweeper": "trainopt.runner.sweeps.tournament",
    },
)
