"""Searches: sweepers that choose the jobs of a sweep by the results of earlier ones.

May import sweeps, reporting, records, config and system.
"""

from typing import TYPE_CHECKING

from ..system.lazy import lazy_names

if TYPE_CHECKING:
    from .lr_heuristic import LRHeuristicSweeper
    from .optuna_sweeper import OptunaSweeper
    from .tournament import TournamentSweeper

__all__ = ["LRHeuristicSweeper", "OptunaSweeper", "TournamentSweeper"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "LRHeuristicSweeper": "trainopt.runner.search.lr_heuristic",
        "OptunaSweeper": "trainopt.runner.search.optuna_sweeper",
        "TournamentSweeper": "trainopt.runner.search.tournament",
    },
)
