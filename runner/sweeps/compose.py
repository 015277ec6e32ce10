"""Configurations of sweeps, composed as for a command, without running it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..config.explain import explain
from ..config.options import CONF, Vocabulary
from ..config.run_names import register_resolvers
from ..system.errors import UserError
from .lr_heuristic import LRHeuristicSweeper, register
from .tournament import TournamentSweeper


def get_ready() -> None:
    """Lets Hydra take our sweepers, and OmegaConf our resolvers."""
    register_resolvers()
    register(LRHeuristicSweeper)
    register(TournamentSweeper)


class Composer:
    """Composes what is typed behind `trainopt -m`.

    Args:
        config_dir: of options of one's own, or None.
    """

    def __init__(self, config_dir: Path | None):
        self.config_dir = config_dir
        self.vocabulary = Vocabulary([*([config_dir] if config_dir else []), CONF])

    @contextmanager
    def composed(self, typed: list[str]) -> Iterator[DictConfig]:
        """Yields the configuration of a sweep; while entered, its jobs can be composed.

        Raises:
            UserError: it cannot be composed; one line that says why.
        """
        get_ready()
        version.setbase("1.3")
        search_path = create_automatic_config_search_path(None, None, "pkg://trainopt.conf")
        if self.config_dir is not None:
            folder = f"file://{self.config_dir.resolve()}"
            search_path.prepend("command-line", folder, SearchPathQuery(provider="schema"))  # as Hydra does
        before = HydraConfig.instance().cfg
        try:
            hydra = Hydra.create_main_hydra2("trainopt", search_path)
            yield hydra.compose_config("config", typed, RunMode.MULTIRUN, with_log_configuration=False)
        except (HydraException, OmegaConfBaseException, YAMLError, OSError) as error:
            raise UserError(explain(error, typed, self.vocabulary)) from error
        finally:
            HydraConfig.instance().cfg = before
            GlobalHydra.instance().clear()
