"""What was typed: overrides taken apart, without Hydra."""

import re
from typing import Any

from .vocabulary import Vocabulary, default_choices


def split_override(override: str) -> tuple[str, str, str]:
    """Return (sign, key, value) of an override.

    >>> split_override("++optimizer.lr=0.1")
    ('++', 'optimizer.lr', '0.1')
    """
    sign, key, value = re.fullmatch(r"(~|\+{0,2})([^=]*)=?(.*)", override, re.DOTALL).groups()  # type: ignore
    return sign, key.partition("@")[0].replace("/", ".") if key.startswith("hydra/") else key, value


def chosen(overrides: list[str], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the option of each group that a command line leads to, experiments left aside."""
    choices = default_choices()
    for override in overrides:
        _, key, value = split_override(override)
        if key in vocabulary.groups:
            options = value.strip("[]").split(",")
            choices[key] = options if value.startswith("[") else options[0]
    return choices
