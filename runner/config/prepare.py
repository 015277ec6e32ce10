"""A configuration as Hydra composed it, checked and ready for a run."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..system.errors import UserError
from .explain import wrong_choice
from .options import following_groups
from .run_names import as_typed, key_of, option_choices
from .validate import check_config, choices_with_classes, drop_replaced_defaults


def prepare(config: DictConfig, settings: Any) -> dict[str, Any]:
    """Checks a configuration, which becomes that of the run; returns the choice of each group.

    A choice is the name of an option or, where another class than that of its YAML is named, of that class.

    Args:
        config: without Hydra's own node; changed.
        settings: that node.

    Raises:
        UserError: a key is unknown, missing, or has a value that is not allowed.
    """
    typed = as_typed(settings.overrides.task)
    for override in typed:
        if key_of(override) in following_groups():
            raise UserError(f"{override}: follows from experiment and optimizer; leave it out")
    choices, vocabulary = option_choices(settings)
    if line := wrong_choice(typed, vocabulary):
        raise UserError(line)
    OmegaConf.set_struct(config, False)
    drop_replaced_defaults(config, choices, vocabulary, typed)
    check_config(config, choices, vocabulary)
    return choices_with_classes(config, choices, vocabulary)
