"""What was computed from checkpoints for a study, kept so that it is not computed again."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..system.files import json_text, read_json, write_json

Entry = dict[str, Any]


class Kept:
    """Results by what was asked and by the files that it was asked of, in figures.json.

    A checkpoint is the same if its path, its length and the time of its last change are; where one differs, what
    was computed from it is computed again.

    Args:
        path: of figures.json; it is read where it is there, and rewritten after each result.
    """

    def __init__(self, path: Path):
        self.path = path
        self._known: dict[str, Entry] = {name_of(entry): entry for entry in read_json(path).get("kept", [])}
        self._used: dict[str, Entry] = {}

    def get(self, asked: Entry, checkpoints: Sequence[Path], compute: Callable[[], Entry]) -> Entry:
        """Return what is kept, or else compute it and keep it; numbers that are not finite become None.

        Args:
            asked: what is computed, with its arguments.
            checkpoints: of which.
            compute: does it.
        """
        entry = {"asked": asked, "checkpoints": [self._identity(path) for path in checkpoints]}
        name = name_of(entry)
        if name not in self._known:
            self._known[name] = {**entry, "found": json.loads(json_text(compute()))}
            write_json(self.path, {"kept": list(self._known.values())})
        self._used[name] = self._known[name]
        return self._known[name]["found"]

    def close(self) -> None:
        """Leave in the file only what was asked for since it was read."""
        if self._used or self._known:
            write_json(self.path, {"kept": list(self._used.values())})

    def _identity(self, path: Path) -> Entry:
        there = path.stat()
        place = os.path.relpath(path.resolve(), self.path.parent.resolve())
        return {"path": place, "bytes": there.st_size, "changed_ns": there.st_mtime_ns}


def name_of(entry: Entry) -> str:
    """Return what an entry is found by."""
    return json.dumps([entry.get("asked"), entry.get("checkpoints")], sort_keys=True)
