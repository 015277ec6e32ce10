"""What was typed: overrides taken apart, without Hydra."""

import argparse
from pathlib import Path
from typing import Any

from .options import Vocabulary, default_choices


def split_override(override: str) -> tuple[str, str, str]:
    """Returns (sign, key, value) of an override.

    >>> split_override("++optimizer.lr=0.1")
    ('++', 'optimizer.lr', '0.1')
    """
    key, _, value = override.partition("=")
    bare = key.lstrip("+~")
    return key[: len(key) - len(bare)], bare, value


def chosen(overrides: list[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Returns the option of each group that a command line leads to, experiments left aside."""
    choices = default_choices()
    for override in overrides:
        _, key, value = split_override(override)
        if key in vocabulary.groups or key.startswith("hydra/"):
            options = value.strip("[]").split(",")
            choices[key] = options if value.startswith("[") else options[0]
    return choices


def typed_overrides(arguments: list[str]) -> list[str]:
    """Returns the arguments that are overrides, as in `optimizer.lr=0.1`."""
    return [a for a in arguments if not a.startswith("-") and ("=" in a or a.startswith("~"))]


def config_folders(arguments: list[str]) -> list[Path]:
    """Returns the folder that --config-dir names, in a list; an empty one where there is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    folder = parser.parse_known_args(arguments)[0].config_dir
    return [folder] if folder is not None and folder.is_dir() else []
