"""Checks of arguments that several classes take."""

from typing import Any


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises ValueError if a value is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value}: must be one of {', '.join(choices)}")
