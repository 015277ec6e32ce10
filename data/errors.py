"""The error of missing, damaged or unsuitable data."""


class DataError(Exception):
    """Data is missing, damaged or of the wrong form; the text is one line that says what would be right."""
