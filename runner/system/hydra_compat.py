"""Hydra's private parts. Known to work with hydra-core 1.3, see tests/runner/system/test_hydra_compat.py.

Each is used because Hydra's public interface has nothing for it:

* `_internal.utils.get_args_parser`, `_run_hydra`: `hydra.main` reads sys.argv and takes no list of arguments.
* `_internal.hydra.Hydra`, `_internal.utils.create_automatic_config_search_path`: `hydra.compose` composes the
  configuration of a run only, not that of a sweep, and `hydra.main` drops what a run or a sweep returns.
* `_internal.callbacks.Callbacks`, `core.utils.run_job`: `Hydra.run` and `Hydra.multirun` compose the configuration,
  which is then known already, once more; and `multirun` has no place between composing a sweep and starting it.
* `Sweeper.validate_batch_is_legal`, which is replaced: Hydra's sweeper composes each job once more than needed, which
  takes longer than to start one.
* `BasicSweeper.split_arguments`: the combinations of values as Hydra's own sweeper forms them.
* `Plugins.class_name_to_class`, and `Plugins.is_in_toplevel_plugins_module`, which is replaced: Hydra accepts
  sweepers of packages below `hydra_plugins` only.
"""

import logging
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import _run_hydra, create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.errors import ConfigCompositionException
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from .errors import UserError
from .flags import FlagParser, add_config_dir, existing_folder

VERSION_BASE = "1.3"
BASIC_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"  # by name: Hydra loads its plugins once more
CONFIG_PATH, CONFIG_NAME = "pkg://trainopt.conf", "config"


JOBLIB_LOG = "hydra_plugins.hydra_joblib_launcher._core"  # the logger of its lines


@contextmanager
def numbered_from(first: int) -> Iterator[None]:
    """Lets joblib's launcher number the jobs that it names from `first` on: it begins with 0 at each of its batches."""

    def renumber(record: logging.LogRecord) -> bool:
        record.msg = re.sub(r"^\t#(\d+) :", lambda match: f"\t#{int(match[1]) + first} :", str(record.msg))
        return True

    log = logging.getLogger(JOBLIB_LOG)
    log.addFilter(renumber)
    try:
        yield
    finally:
        log.removeFilter(renumber)


def flag_parser() -> FlagParser:
    """Returns the parser of Hydra's flags and of overrides."""
    parser = FlagParser("trainopt", parents=[get_args_parser()], add_help=False, conflict_handler="resolve")
    add_config_dir(parser, str)  # Hydra's takes one folder
    return parser


def parse_arguments(arguments: list[str]) -> tuple[Namespace, list[str]]:
    """Returns a command line as Hydra reads it, and the flags in it that there are not.

    Raises:
        UserError: a flag has a wrong value, or is not supported.
    """
    flags, unknown = flag_parser().parse_known_intermixed_args(arguments)
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun: is not supported; trainopt resume RUN continues a run")
    flags.config_dir = [existing_folder(folder) for folder in flags.config_dir]
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve: goes with --cfg job")
    if flags.cfg and flags.multirun:
        raise UserError("--cfg: shows the configuration of one run; leave -m out")
    return flags, unknown


def starts_jobs(flags: Namespace) -> bool:
    """Returns whether a command line starts a run or a sweep, rather than showing something."""
    shows = (flags.help, flags.hydra_help, flags.cfg, flags.resolve, flags.shell_completion, flags.info)
    return not any(shows) and not (flags.run and flags.multirun)


def show(flags: Namespace, job: TaskFunction) -> None:
    """Carries out a command line that starts no job, as `--cfg job`."""
    version.setbase(VERSION_BASE)
    flags.config_dir = next(iter(flags.config_dir), None)
    _run_hydra(flags, get_args_parser(), job, CONFIG_PATH, CONFIG_NAME)


def hydra_options(group: str) -> list[str]:
    """Returns the options of one of Hydra's groups, as of `hydra/launcher`, with those of installed plugins."""
    with HydraSession():
        return GlobalHydra.instance().config_loader().get_group_options(group)


def hydra_node(overrides: list[str]) -> Any:
    """Returns Hydra's own node of the configuration of a sweep, as a dict."""
    with HydraSession() as session:
        return OmegaConf.to_container(session.compose_sweep(overrides, with_log_configuration=False).hydra)


class HydraSession:
    """Hydra with our configuration folder; while entered, it composes configurations and starts jobs.

    Args:
        folders: of further options, which exist; searched in this order.
        config_path: replaces our folder, if not None.
        config_name: replaces `config`, if not None.
    """

    def __init__(self, folders: Sequence[Path] = (), config_path: str | None = None, config_name: str | None = None):
        self._config_name = config_name or CONFIG_NAME
        version.setbase(VERSION_BASE)
        self._search_path = create_automatic_config_search_path(None, __package__, config_path or CONFIG_PATH)
        for folder in folders:
            self._search_path.prepend("command-line", f"file://{folder.absolute()}", SearchPathQuery(provider="schema"))

    def __enter__(self) -> "HydraSession":
        self._config_before = HydraConfig.instance().cfg
        self._hydra = Hydra.create_main_hydra2("trainopt", self._search_path)
        return self

    def __exit__(self, *_: object) -> None:
        HydraConfig.instance().cfg = self._config_before
        GlobalHydra.instance().clear()

    def compose(self, flags: Namespace) -> DictConfig:
        """Returns the configuration of a run or of a sweep; its `hydra.mode` says which of the two it is."""
        if not flags.multirun:
            try:
                config = self.compose_run(flags.overrides)
            except Exception:
                if not self.is_sweep(flags.overrides):
                    raise
            else:
                if config.hydra.mode != RunMode.MULTIRUN:
                    config.hydra.mode = RunMode.RUN
                    return config
        return self.compose_sweep([*flags.overrides, "hydra.mode=MULTIRUN"], with_log_configuration=True)

    def is_sweep(self, overrides: list[str]) -> bool:
        """Returns whether the configuration of these overrides asks for a sweep, as an experiment may."""
        return self._hydra.get_mode(self._config_name, overrides) == RunMode.MULTIRUN

    def compose_run(self, overrides: list[str]) -> DictConfig:
        """Returns the configuration of a run."""
        return self._compose(overrides, RunMode.RUN, with_log_configuration=True)

    def _compose(self, overrides: list[str], mode: RunMode, with_log_configuration: bool) -> DictConfig:
        try:
            return self._hydra.compose_config(self._config_name, overrides, mode, with_log_configuration)
        except UnicodeDecodeError:  # of a file
            raise
        except ValueError as error:  # as for model=null
            raise ConfigCompositionException(str(error)) from error

    def run(self, config: DictConfig, job: TaskFunction) -> Any:
        """Calls `job` with the configuration of a run, as Hydra.run does; returns what that returns."""
        callbacks = Callbacks(config)
        callbacks.on_run_start(config=config, config_name=self._config_name)
        context = HydraContext(config_loader=self._hydra.config_loader, callbacks=callbacks)
        result = run_job(job, config, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=config, config_name=self._config_name, job_return=result)
        return result.return_value

    def compose_sweep(self, overrides: list[str], with_log_configuration: bool) -> DictConfig:
        """Returns the configuration of a sweep; while the session is entered, those of its jobs can be composed."""
        return self._compose(overrides, RunMode.MULTIRUN, with_log_configuration)

    def sweep(self, config: DictConfig, job: TaskFunction) -> Any:
        """Starts the sweep of a configuration, as Hydra.multirun does; returns what its sweeper returns."""
        callbacks = Callbacks(config)
        callbacks.on_multirun_start(config=config, config_name=self._config_name)
        context = HydraContext(config_loader=self._hydra.config_loader, callbacks=callbacks)
        sweeper = Plugins.instance().instantiate_sweeper(config=config, hydra_context=context, task_function=job)
        if config.hydra.sweeper._target_ == BASIC_SWEEPER:
            sweeper.validate_batch_is_legal = _has_been_planned  # type: ignore[method-assign]
        arguments: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
        result = sweeper.sweep(arguments=arguments)
        callbacks.on_multirun_end(config=config, config_name=self._config_name)
        return result

    def launch(self, config: DictConfig, job: TaskFunction, batch: Sequence[Sequence[str]]) -> None:
        """Runs jobs of the sweep of a configuration by its launcher; raises what a job raised.

        Args:
            config: of the sweep.
            job: called with the configuration of each run.
            batch: the overrides of each job.
        """
        context = HydraContext(config_loader=self._hydra.config_loader, callbacks=Callbacks(config))
        launcher = Plugins.instance().instantiate_launcher(context, job, config)
        for result in launcher.launch(batch, initial_job_idx=0):
            _ = result.return_value


def _has_been_planned(batch: Sequence[Sequence[str]]) -> None:
    """Does nothing with the jobs of Hydra's sweeper: all of them were composed before it started."""


def accept_sweeper(sweeper: type[Sweeper], package: str) -> None:
    """Makes Hydra accept a sweeper class from outside of `hydra_plugins` under the name that a package has for it."""
    name = f"{package}.{sweeper.__name__}"
    accepted = Plugins.is_in_toplevel_plugins_module
    if not accepted(name):
        Plugins.is_in_toplevel_plugins_module = staticmethod(  # type: ignore[method-assign, assignment]
            lambda target: target == name or accepted(target)
        )
    Plugins.instance().register(sweeper)
    Plugins.instance().class_name_to_class[name] = sweeper


def sweeper_class(config: DictConfig) -> type[Plugin] | None:
    """Returns the class of a sweep's sweeper; None where Hydra does not know it."""
    return Plugins.instance().class_name_to_class.get(config.hydra.sweeper._target_)


def parse_override(override: str) -> Override:
    """Returns one override as Hydra reads it, without a session; HydraException where it cannot be read."""
    return OverridesParser.create().parse_override(override)


def parse_overrides(overrides: Iterable[str]) -> list[Override]:
    """Returns overrides as Hydra reads them; a session must be entered."""
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    return parser.parse_overrides(list(overrides))


def is_group(key: str) -> bool:
    """Returns whether a key chooses an option of a group; a session must be entered."""
    return bool(GlobalHydra.instance().config_loader().get_group_options(key, results_filter=None))


def product(overrides: list[Override]) -> list[list[str]]:
    """Returns each combination of the values of overrides; of two with the same key the last counts."""
    (batch,) = BasicSweeper.split_arguments(overrides, None)
    return batch
