"""What a logger is made of, and the curves that loggers draw of a record."""

from abc import abstractmethod
from typing import Any, Protocol

# entries of a record that are axes, not curves
AXIS_KEYS = ("kind", "step", "epoch", "samples", "gradients", "hvps", "gradient_equivalents", "train_seconds")


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


def curve_values(record: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers in a record by the names of their curves: `kind/name`, or `probe/NAME/name`.

    >>> curve_values({"kind": "test", "step": 3, "loss": 0.5, "note": "a"})
    {'test/loss': 0.5}
    """
    start = f"probe/{record['probe']}" if record["kind"] == "probe" else record["kind"]
    return {
        f"{start}/{name}": value
        for name, value in record.items()
        if name not in AXIS_KEYS and isinstance(value, int | float)
    }
