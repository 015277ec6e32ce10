"""Whether the user's classes of a sweep can be imported, before its jobs wait in a queue."""

import shlex
import sys
from collections.abc import Iterator, Sequence

from hydra.core.override_parser.types import ChoiceSweep
from omegaconf import DictConfig, OmegaConf

from ..config.options import CONF, Vocabulary, option_content
from ..config.run_names import as_typed, option_choices
from ..system.errors import UserError
from ..system.hydra_compat import parse_overrides


def check_imports(config: DictConfig, setup: Sequence[str]) -> None:
    """Refuses a sweep with a class that cannot be imported.

    Lines of bash that tasks run first may make modules known that are not there before: then one that lacks a module
    is only named.

    Args:
        config: of the sweep.
        setup: these lines.

    Raises:
        UserError: a class cannot be imported.
    """
    typed = [*as_typed(config.hydra.overrides.task)]
    typed += [word for method in config.hydra.sweeper.get("methods") or () for word in shlex.split(method)]
    for section, target in dict.fromkeys(typed_classes(typed, option_choices(config.hydra)[1])):
        from ..config.instantiate import find, lacks_module  # imports torch

        try:
            find(OmegaConf.create({"_target_": target}), section)
        except UserError as error:
            if not lacks_module(error):
                raise
            if not setup:
                line = "cluster.setup=['export PYTHONPATH=FOLDER'] says where nodes find a module that is only there"
                raise UserError(f"{error}; {line}") from error
            print(f"note: {error}; cluster.setup must make it known to the tasks", file=sys.stderr)


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
