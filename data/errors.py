"""The error of missing, damaged or unsuitable data."""


class DataError(Exception):
    """Data is missing, damaged or of the wrong form; the text is one line that says what would be right."""


def one_line(text: object) -> str:
    """Folds a message to one line.

    >>> one_line("a\\n  b")
    'a b'
    """
    return " ".join(str(text).split())
