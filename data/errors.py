"""What is wrong with data."""


class DataError(Exception):
    """Data that is missing, damaged or of the wrong form; one line that names it and says what would be right."""
