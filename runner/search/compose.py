"""Composes configurations of sweeps as for a command, without running it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..config.explain import explain
from ..config.options import CONF, Vocabulary
from ..config.run_names import register_resolvers
from ..system.errors import UserError
from ..system.flags import config_dir_flags
from ..system.hydra_compat import HydraSession, accept_sweeper
from .lr_heuristic import LRHeuristicSweeper
from .optuna_sweeper import OptunaSweeper
from .tournament import TournamentSweeper


def register_with_hydra() -> None:
    """Makes Hydra accept our sweepers, and OmegaConf our resolvers."""
    register_resolvers()
    for sweeper in (LRHeuristicSweeper, OptunaSweeper, TournamentSweeper):
        accept_sweeper(sweeper, __package__)


class Composer:
    """Composes what is typed behind `trainopt -m`.

    Args:
        folders: of the user's options.
    """

    def __init__(self, folders: Sequence[Path] = ()):
        self.folders = folders
        self.vocabulary = Vocabulary([*folders, CONF])

    @property
    def flags(self) -> list[str]:
        """The arguments that name the folders."""
        return config_dir_flags(self.folders)

    @contextmanager
    def composed(self, typed: list[str]) -> Iterator[DictConfig]:
        """Yields the configuration of a sweep; while entered, its jobs can be composed.

        Raises:
            UserError: it cannot be composed; one line that says why.
        """
        register_with_hydra()
        try:
            with HydraSession(self.folders) as hydra:
                yield hydra.compose_sweep(typed, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException, YAMLError, OSError) as error:
            raise UserError(explain(error, typed, self.vocabulary)) from error
