"""What was typed: overrides taken apart, without Hydra."""

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
