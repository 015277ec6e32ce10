"""Search spaces that are declared for optimizers, in conf/space. Needs no Optuna."""

from pathlib import Path

from omegaconf import DictConfig

from ..config.options import SPACES, option_content
from ..config.run_names import option_choices
from ..config.validate import choices_with_classes
from ..system.errors import UserError


def space_file(config: DictConfig) -> Path:
    """Returns the file with the search space of the optimizer of a configuration, which has Hydra's own node.

    Raises:
        UserError: there is none.
    """
    choices, vocabulary = option_choices(config.hydra)
    optimizer = choices_with_classes(config, choices, vocabulary)["optimizer"]
    path = vocabulary.file(SPACES, optimizer)
    if path is None:
        raise UserError(
            f"optimizer={optimizer}: has no search space; leave keys open: 'optimizer.lr=tag(log,interval(1e-4,0.1))',"
            f" or write DIR/{SPACES}/{optimizer}.yaml for --config-dir DIR;"
            f" there are {', '.join(vocabulary.options(SPACES))}"
        )
    return path


def declared_overrides(config: DictConfig) -> list[str]:
    """Returns what the search space of the optimizer of a configuration leaves open, as overrides of Hydra."""
    return [f"{key}={value}" for key, value in option_content(space_file(config)).items()]
