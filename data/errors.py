"""The error of missing, damaged or unsuitable data, and what its texts are made of."""

from collections.abc import Sequence


class DataError(Exception):
    """Data is missing, damaged or of the wrong form; the text is one line that says what would be right."""


class DamagedImage(DataError):
    """An image file cannot be read as an image."""


def one_line(text: object) -> str:
    """Folds a message to one line.

    >>> one_line("a\\n  b")
    'a b'
    """
    return " ".join(str(text).split())


def listed(names: Sequence[str], most: int = 5) -> str:
    """Returns names as text: the first ones, and how many more there are.

    >>> listed(["cat", "dog"]), listed("abcdefgh")
    ('cat, dog', 'a, b, c, d, e and 3 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
