"""Checks of arguments."""

from collections.abc import Collection


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises ValueError if the value of an argument is none of the choices."""
    if value not in choices:
        raise ValueError(f"{name}={value}: must be one of {', '.join(choices)}")


def check_fraction(name: str, value: float) -> None:
    """Raises ValueError if the value of an argument is not in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: must be in [0, 1], a fraction of the learning rate")
