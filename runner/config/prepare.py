"""A configuration as Hydra composed it, checked and ready for a run."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..system.errors import UserError
from .options import CONF, Vocabulary, following_groups
from .run_names import as_typed, key_of
from .validate import check_config, drop_replaced_defaults


def prepare(config: DictConfig, settings: Any) -> dict[str, Any]:
    """Checks a configuration, which becomes that of the run; returns the choices of options.

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
    folders = [Path(s.path) for s in settings.runtime.config_sources if s.schema == "file"]
    made = {str(k): v for k, v in settings.runtime.choices.items() if not str(k).startswith("hydra/")}
    choices = {group: option for group, option in made.items() if group not in following_groups()}
    vocabulary = Vocabulary([*folders, CONF])
    OmegaConf.set_struct(config, False)
    drop_replaced_defaults(config, choices, vocabulary, typed)
    check_config(config, choices, vocabulary)
    return choices
