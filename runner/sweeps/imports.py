"""Whether the user's classes of a sweep can be imported, before its first job begins or waits in a queue."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import DictConfig, OmegaConf

from ..config.options import CONF, Vocabulary, option_content
from ..config.prepare import own_files_named
from ..config.run_names import as_typed, option_choices
from ..records.job_table import ENDED, job_statuses
from ..system.errors import USER_ERROR, UserError, continued
from ..system.hydra_compat import parse_overrides
from ..system.isolation import run_isolated


def check_imports_here(config: DictConfig, jobs: list[dict[str, Any]]) -> None:
    """Refuses a sweep on this machine with a class that cannot be imported, where jobs are left to run.

    Another process imports the classes: each job does it itself, with its own seed, which a module may draw from.

    Args:
        config: of the sweep.
        jobs: entries of its plan; empty where they follow from results.

    Raises:
        UserError: a class cannot be imported.
    """
    if not classes_of(config):
        return
    states = {job.state for job in job_statuses(Path(config.hydra.sweep.dir), {job["folder"]: job for job in jobs})}
    if jobs and states <= {*ENDED, "outdated"}:
        return
    import_module("trainopt.runner.config.instantiate")  # for all jobs: it imports torch

    def work() -> int:
        try:
            check_imports(config)
        except UserError:
            return USER_ERROR
        return 0

    if run_isolated(work) == USER_ERROR:  # where the import kills the process, the jobs say so
        check_imports(config)


def check_imports(config: DictConfig, setup: Sequence[str] | None = None) -> None:
    """Refuses a sweep with a class that cannot be imported.

    Lines of bash that tasks run first may make modules known that are not there before: then one that lacks a module
    is only named.

    Args:
        config: of the sweep.
        setup: these lines; None: its jobs run on this machine.

    Raises:
        UserError: a class cannot be imported.
    """
    for section, target in classes_of(config):
        from ..config.instantiate import find, lacks_module  # imports torch

        try:
            with own_files_named(config.hydra):
                find(OmegaConf.create({"_target_": target}), section)
        except UserError as error:
            if setup is None or not lacks_module(error):
                raise
            if not setup:
                line = "cluster.setup=['export PYTHONPATH=FOLDER'] says where nodes find a module that is only there"
                raise UserError(continued(error, line)) from error
            line = "cluster.setup must make it known to the tasks"
            print(f"note: {continued(error, line)}", file=sys.stderr)


def classes_of(config: DictConfig) -> list[tuple[str, str]]:
    """Returns (section, dotted name) of each class that a sweep or a method of its tournament names, each once."""
    typed = [*as_typed(config.hydra.overrides.task)]
    typed += [word for method in config.hydra.sweeper.get("methods") or () for word in shlex.split(method)]
    return list(dict.fromkeys(typed_classes(typed, option_choices(config.hydra)[1])))


def typed_classes(typed: list[str], vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Yields (section, dotted name) of each class that overrides name, or options of the user's that they choose.

    Args:
        typed: the overrides.
        vocabulary: the options that there are.
    """
    for override in parse_overrides(typed):
        key, value = str(override.key_or_group), override.value()
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        names = [str(getattr(n, "text", n)) for v in values for n in (v if isinstance(v, list) else [v])]  # or quoted
        if key.endswith("._target_"):
            yield from ((key.removesuffix("._target_"), name) for name in names)
        elif key in vocabulary.groups:
            paths = [path for path in vocabulary.files_of({key: names}) if not path.is_relative_to(CONF)]
            for content in map(option_content, paths):
                nodes = [content, *(node for node in content.values() if isinstance(node, dict))]
                yield from ((key, str(node["_target_"])) for node in nodes if node.get("_target_"))
