"""`trainopt [-m] key=value …`: one run, or a sweep."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ..config.explain import explain
from ..config.options import CONF, Vocabulary
from ..config.overrides import chosen, config_folders, typed_overrides, unknown_flag
from ..config.quoting import quoted_overrides
from ..config.run_names import as_typed, option_choices
from ..config.validate import drop_replaced_defaults
from ..records.job_table import OPEN_SEARCH
from ..reporting.figure_style import add_style_flags, figure_style
from ..search.compose import register_with_hydra
from ..search.search import SearchResult, TournamentResult
from ..search.search_report import show_searches
from ..sweeps.interrupt import SweepInterrupt, stop_file
from ..sweeps.jobs import plan_sweep
from ..sweeps.run_job import Job
from ..sweeps.status import show_end
from ..system.environment import launched_size
from ..system.errors import FULL_DISK, UserError, cannot_write, one_line
from ..system.flags import FlagParser
from ..system.hydra_compat import HydraSession, RunMode, parse_arguments, parse_overrides, show, starts_jobs
from ..trials.declared import declared_overrides, space_file
from ..trials.result import TrialSearchResult, show_trials

STRICT, SPACE = "--strict", "--space"


@dataclass
class SweepResult:
    """The result of a sweep.

    Attributes:
        folder: the sweep's.
        outcome: what its sweeper returned; None where it was stopped.
        is_stopped: whether its launcher was stopped, by a signal or by an error.
    """

    folder: Path
    outcome: Any
    is_stopped: bool


def command(arguments: list[str], debug: bool) -> int:
    """Lets Hydra compose the configuration and start the run, or the runs of a sweep; returns the exit code."""
    typed = ["trainopt", *arguments]
    reject_undecodable(arguments)
    job = Job(typed, debug, os.getpid(), STRICT in arguments)
    shows_space = SPACE in arguments
    arguments = [argument for argument in arguments if argument not in (STRICT, SPACE)]
    if shows_space:
        return show_space(arguments)
    style, arguments = split_style(arguments)
    with style, SweepInterrupt() as interrupt:
        result = compose_and_run(arguments, job, interrupt)
        code = result if isinstance(result, int) else report_sweep(result, typed)
        return interrupt.code if interrupt.signal else code


def split_style(arguments: list[str]) -> tuple[AbstractContextManager[None], list[str]]:
    """Returns the style of the figures that a command line asks for, to be entered, and its other arguments."""
    parser = FlagParser("trainopt", add_help=False, allow_abbrev=False)
    add_style_flags(parser)
    options, others = parser.parse_known_args(arguments)
    if others == arguments:
        return nullcontext(), arguments
    return figure_style(options.style, options.width), others


def reject_undecodable(arguments: list[str]) -> None:
    """Raises UserError for an argument with bytes that are no text in the encoding of the locale."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            encoding = sys.getfilesystemencoding()
            raise UserError(f"{argument}: is no text in {encoding}, the shell's encoding; LC_ALL=C.UTF-8 sets UTF-8")


def compose_and_run(
    arguments: list[str],
    job: Job,
    interrupt: SweepInterrupt,
    sweeps: bool = True,
    plan: Callable[[DictConfig], Path] = plan_sweep,
    launch: Callable[[HydraSession, DictConfig, Job], Any] | None = None,
) -> int | SweepResult:
    """Runs what a command line asks Hydra for; returns the exit code of a run, or the result of a sweep.

    Args:
        arguments: of the command line.
        job: called with the configuration of each run.
        interrupt: entered; gets the folder of the sweep.
        sweeps: whether it may be a sweep.
        plan: writes the plan of a sweep and returns its folder.
        launch: starts the jobs of a planned sweep, and returns the outcome; None: its sweeper does.

    Raises:
        UserError: the configuration cannot be composed, or a run cannot be started as it was typed, or it is a sweep
            and may be none.
    """
    register_with_hydra()
    flags = read_flags(arguments)
    typed = flags.overrides
    if flags.shell_completion and typed and typed[0].startswith("install="):
        from .completion import script

        print(script(typed[0].partition("=")[2]))
        return 0
    flags.overrides = quoted_overrides(typed, flags.multirun)
    outcome, is_stopped = None, False
    try:
        if flags.cfg:
            show_configuration(flags)
            return 0
        if not starts_jobs(flags):
            show(flags, job)
            return 0
        with HydraSession(flags.config_dir, flags.config_path, flags.config_name) as hydra:
            if flags.overrides != typed and not flags.multirun and hydra.is_sweep(flags.overrides):
                flags.overrides = quoted_overrides(typed, in_sweep=True)
            config = hydra.compose(flags)
            if config.hydra.mode == RunMode.RUN:
                return hydra.run(config, job)
            if launched_size() > 1:
                raise UserError("-m: a sweep starts its runs itself, and torchrun starts one; type trainopt -m …")
            if not sweeps:
                raise UserError("this is a sweep, not one run; type trainopt -m …")
            interrupt.token, interrupt.sweep = job.token, plan(config)
            outcome = (launch or HydraSession.sweep)(hydra, config, job)
    except KeyboardInterrupt:
        if interrupt.sweep is None:
            raise
    except UserError:
        raise
    except Exception as error:
        if interrupt.sweep is None:
            vocabulary = Vocabulary([*config_folders(arguments), CONF])
            raise UserError(explain(error, typed_overrides(arguments), vocabulary)) from error
        text = one_line(error)[:300]
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            text = cannot_write(error, interrupt.sweep)
        if not interrupt.signal:  # otherwise the error follows from that
            print(f"trainopt: the launcher stopped: {text}", file=sys.stderr)
        is_stopped = True
    stop_file(interrupt.sweep, job.token).unlink(missing_ok=True)
    return SweepResult(interrupt.sweep, outcome, is_stopped or bool(interrupt.signal))


def read_flags(arguments: list[str]) -> Namespace:
    """Returns a command line as Hydra reads it; UserError for a flag that there is not."""
    flags, unknown = parse_arguments(arguments)
    if unknown:
        flag, _, value = unknown[0].partition("=")
        following = arguments[arguments.index(unknown[0]) + 1 :][:1]
        value = value or next((word for word in following if not word.startswith("-") and "=" not in word), "")
        vocabulary = Vocabulary([*config_folders(arguments), CONF])
        keys = vocabulary.keys(chosen(typed_overrides(arguments), vocabulary))
        raise UserError(unknown_flag(flag, value, [*vocabulary.groups, *keys]))
    return flags


def show_space(arguments: list[str]) -> int:
    """Prints the search space of the chosen optimizer; returns the exit code.

    Raises:
        UserError: there is none, or it has a key that a run with this optimizer does not have.
    """
    register_with_hydra()
    flags = read_flags(arguments)
    typed = typed_overrides(arguments)
    try:
        with HydraSession(flags.config_dir, flags.config_path, flags.config_name) as hydra:
            config = hydra.compose_run(flags.overrides)
            path, declared = space_file(config), declared_overrides(config)
            parse_overrides(declared)
            typed += declared
            hydra.compose_run([*flags.overrides, *(f"{override.partition('=')[0]}=null" for override in declared)])
    except HydraException as error:
        vocabulary = Vocabulary([*config_folders(arguments), CONF])
        raise UserError(explain(error, typed, vocabulary)) from error
    print(path.read_text(encoding="utf-8"), end="")
    return 0


def show_configuration(flags: Namespace) -> None:
    """Prints the configuration of a run, as `--cfg` asks for it, without running it."""
    with HydraSession(flags.config_dir, flags.config_path, flags.config_name) as hydra:
        config = hydra.compose_run(flags.overrides)
        HydraConfig.instance().set_config(config)  # for interpolations of ${hydra:…}
        OmegaConf.set_readonly(config.hydra, None)
        choices, vocabulary = option_choices(config.hydra)
        typed = as_typed(config.hydra.overrides.task)
        OmegaConf.set_struct(config, False)
        drop_replaced_defaults(config, choices, vocabulary, typed)
        if flags.resolve:
            OmegaConf.resolve(config)
        keys = [str(key) for key in config]
        parts = {"job": [key for key in keys if key != "hydra"], "hydra": ["hydra"], "all": keys}
        shown: Any = OmegaConf.masked_copy(config, parts[flags.cfg])
        if flags.package not in (None, "_global_"):
            shown = OmegaConf.select(shown, flags.package)
            if shown is None:
                raise UserError(f"--package {flags.package}: there is no such section")
        print(OmegaConf.to_yaml(shown) if OmegaConf.is_config(shown) else shown, end="")


def report_sweep(result: SweepResult, typed: list[str]) -> int:
    """Prints the job table of a sweep and the result of its search or tournament; returns the exit code.

    Args:
        result: of the sweep.
        typed: the command line, with the program's name.

    Raises:
        UserError: it was a tournament, and its methods cannot be compared.
    """
    code = show_end(result.folder, typed, result.is_stopped)
    try:
        return max(code, report_outcome(result))
    finally:
        if result.outcome is not None:
            (result.folder / OPEN_SEARCH).unlink(missing_ok=True)


def report_outcome(result: SweepResult) -> int:
    """Prints the result of the search or tournament of a sweep; returns the exit code."""
    if isinstance(result.outcome, SearchResult):
        return show_searches(result.folder, result.outcome.searches)
    if isinstance(result.outcome, TrialSearchResult):
        return show_trials(result.folder, result.outcome)
    if isinstance(result.outcome, TournamentResult):
        from ..comparison.tournament_report import report_tournament  # imports pandas, which a run does not need

        return report_tournament(result.folder, result.outcome)
    return 0
