"""What a logger is made of."""

from abc import abstractmethod
from typing import Any, Protocol


class Logger(Protocol):
    """Gets every record of metrics.jsonl, to show it elsewhere.

    It may take the arguments `folder` (the run's), `resumed_at` (the step from which the run goes on, or None) and
    `say` (a function that shows a line and writes it into log.txt). An OSError that a method raises ends the run.
    """

    @abstractmethod
    def row(self, row: dict[str, Any], /) -> None:
        """Takes a record."""

    def flush(self) -> None:
        """Writes its buffer; called after every evaluation."""

    def close(self) -> None:
        """Closes its files; called once, at the end."""
