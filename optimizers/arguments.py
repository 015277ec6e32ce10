"""Checks of arguments."""

from collections.abc import Collection


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError if the value of an argument is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value}: must be one of {', '.join(choices)}")
