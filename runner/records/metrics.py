"""Reads metrics.jsonl."""

import json
from pathlib import Path
from typing import Any


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows of a run's metrics.jsonl."""
    with open(folder / "metrics.jsonl") as file:
        return [json.loads(line) for line in file]
