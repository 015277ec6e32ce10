"""The vectors and matrices of a run's last evaluation: a file in its folder. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..system.display import ARRAYS
from ..system.files import json_line, read_json, write_text


def write_arrays(folder: Path, position: Mapping[str, Any], arrays: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Writes the arrays of an evaluation in place of the former ones.

    Args:
        folder: the run's.
        position: `step` and `epoch`.
        arrays: by kind of row, then by the metric's name.
    """
    lists = {kind: {name: array.tolist() for name, array in of_kind.items()} for kind, of_kind in arrays.items()}
    write_text(folder / ARRAYS, json_line({**position, **lists}) + "\n")


def read_arrays(folder: Path, kind: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a kind of row by the metric's name; empty where there are none, or the file is damaged."""
    lists = read_json(folder / ARRAYS).get(kind)
    return {name: np.array(values, dtype=float) for name, values in lists.items()} if isinstance(lists, dict) else {}
