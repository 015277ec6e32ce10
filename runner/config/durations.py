"""How long and how often: `20epochs`, `0.05epochs`, `300steps`; and how long a run is: `10min`."""

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from ..system.errors import UserError

_PATTERN = re.compile(
    r"(\d+(?:\.\d*)?|\.\d+)(?:[eE](\d{1,2}))?\s*"
    r"(?:(epoch|step)s?|(s)(?:ec(?:ond)?s?)?|(min)(?:ute)?s?|(h)(?:(?:ou)?rs?)?)"
)
SECONDS = {"s": 1, "min": 60, "h": 3600}


def usual_durations(value: Any) -> Any:
    """Returns a duration as it is usually written, also in a list: `2epochs` for `2 epoch`, `2.0epochs` and `02epochs`.

    >>> usual_durations(["1 step", "0.50epoch", "1e3epochs"]), usual_durations("2epochs"), usual_durations("x")
    (['1steps', '0.5epochs', '1e3epochs'], '2epochs', 'x')
    >>> usual_durations(["90 seconds", "1.0minute", "2 hours"])
    ['90s', '1min', '2h']
    """
    if isinstance(value, list):
        return [usual_durations(element) for element in value]
    match = _PATTERN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    whole, _, part = match[1].partition(".")
    number = (whole.lstrip("0") or "0") + (f".{part.rstrip('0')}" if part.strip("0") else "")
    return f"{number}{f'e{match[2]}' if match[2] else ''}{_unit(match)}"


def is_time(text: Any) -> bool:
    """Returns whether a text is a duration in time, as `10min`, and not in epochs or steps."""
    return Duration.is_valid(text) and Duration.parse(text).unit == "seconds"


@dataclass(frozen=True)
class Duration:
    """A positive number of epochs or of seconds of training (any fraction), or of steps (a whole number)."""

    amount: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Reads a duration; raises UserError where the text is none.

        >>> Duration.parse("0.05epochs"), Duration.parse("1.5min")
        (Duration(amount=Fraction(1, 20), unit='epochs'), Duration(amount=Fraction(90, 1), unit='seconds'))
        """
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is not None:
            amount = Fraction(match[1].rstrip(".")) * 10 ** int(match[2] or 0)
            unit = _unit(match)
            if unit in SECONDS:
                amount, unit = amount * SECONDS[unit], "seconds"
            if amount > 0 and (unit != "steps" or amount.denominator == 1):
                return cls(amount, unit)
        raise UserError(f"{text}: is no duration; write a positive number with a unit, as 20epochs, 300steps or 10min")

    def passed(self, step: int, epochs: Fraction) -> Fraction:
        """Returns how many such durations have passed after so many steps and epochs.

        >>> Duration.parse("8epochs").passed(step=300, epochs=Fraction(1, 2))
        Fraction(1, 16)

        Raises:
            ValueError: it is in time, which does not follow from steps and epochs.
        """
        if self.unit == "seconds":
            raise ValueError("a time does not follow from steps and epochs")
        return (Fraction(step) if self.unit == "steps" else epochs) / self.amount

    @classmethod
    def is_valid(cls, text: Any) -> bool:
        """Returns whether `parse` takes the text."""
        try:
            cls.parse(text)
        except UserError:
            return False
        return True


def _unit(match: re.Match[str]) -> str:
    return f"{match[3]}s" if match[3] else match[4] or match[5] or match[6]
