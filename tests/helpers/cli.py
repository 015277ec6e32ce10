"""Command lines: run in a copy of the test's process, or only composed, checked and built.

A copy is a real process to kill, without the seconds of imports.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from trainopt.runner import cli
from trainopt.runner.config.options import CONF, Vocabulary
from trainopt.runner.config.overrides import split_override
from trainopt.runner.config.prepare import prepare
from trainopt.runner.search.compose import Composer
from trainopt.runner.state.run import Run
from trainopt.runner.sweeps.jobs import first_jobs
from trainopt.runner.sweeps.run_job import import_once
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.isolation import end_workers
from trainopt.runner.training.build import build


def prepared(*typed: str) -> tuple[DictConfig, dict[str, Any]]:
    """Returns (configuration, choices of options) of a command line, checked.

    Raises:
        UserError: as the command line says it.
    """
    return deepcopy(_prepared(*typed))


@cache
def _prepared(*typed: str) -> tuple[DictConfig, dict[str, Any]]:
    """Composes options once for all command lines that choose the same, and sets the values afterwards."""
    groups = Vocabulary([CONF]).groups
    choices = [word for word in typed if split_override(word)[1] in groups or word.startswith("hydra/")]
    values = [word for word in typed if word not in choices]
    try:
        config = deepcopy(_composed(*choices))
        for override in OverridesParser.create().parse_overrides(values):
            if override.is_add() or override.is_delete():
                raise OmegaConfBaseException("only Hydra can do that")
            OmegaConf.update(config, override.key_or_group, override.value())
    except (HydraException, OmegaConfBaseException):
        config = deepcopy(_composed(*typed))
    with open_dict(config):
        settings = config.pop("hydra")
        settings.overrides.task = list(typed)
    return config, prepare(config, settings)


@cache
def _composed(*typed: str) -> DictConfig:
    with Composer().composed(list(typed)) as config:
        return config


def built(*typed: str) -> Run:
    """Returns the run of a command line, before its first step."""
    return build(prepared(*typed)[0])


def refusal(*typed: str) -> str:
    """Returns the one line in which a command line is refused before its run begins."""
    with pytest.raises(UserError) as error:
        built(*typed)
    line = str(error.value)
    assert line == line.strip()
    assert "\n" not in line
    return line


def sweep_refusal(*typed: str) -> str:
    """Returns the one line in which what is typed behind `trainopt -m` is refused before its first job begins."""
    with pytest.raises(UserError) as error, Composer().composed(list(typed)) as config:
        first_jobs(config)
    line = str(error.value)
    assert "\n" not in line
    return line


def forked(*arguments: str, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """Runs a command in a folder; returns its exit code, or minus the number of the signal that ended it.

    Its output is added to `output` in the folder; modules that lie there can be imported. `before` is called in the
    copy.
    """
    return exit_code(start_fork(*arguments, folder=folder, before=before))


def start_fork(*arguments: str, folder: Path, before: Callable[[], object] = lambda: None) -> int:
    """As `forked`, without waiting; returns the process's number."""
    import_once()
    _composed("model=mlp")  # Hydra's plugins and the tables of its parser
    if {"-m", "compare", "benchmark", "reproduce"} & {*arguments}:
        import_module("trainopt.runner.comparison.report")  # pandas and SciPy with it
        import_module("trainopt.runner.trials.figures")  # Optuna and scikit-learn
    end_workers()  # those of a sweep in this process: a copy that took them over would wait for their thread for ever
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(folder)
        with open("output", "a") as output:
            for descriptor in (1, 2):
                os.dup2(output.fileno(), descriptor)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["trainopt", *arguments]
        sys.path.insert(0, str(folder))
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        os.environ |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}  # of joblib's workers
        before()
        cli.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        end_workers()
        os._exit(code)


def exit_code(pid: int) -> int:
    """Waits for a process; returns its exit code, or minus the number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def others_in(folder: Path) -> list[int]:
    """Returns the processes but this one that work in a folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cwd"):
        with suppress(OSError):  # somebody else's, or just gone
            if place.readlink() == folder and place.parent.name != str(os.getpid()):
                found.append(int(place.parent.name))
    return found
