"""Metrics that are computed from checkpoints: of ensembles, and of the line between two checkpoints."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..config.forms.object_files import parse, require_keys
from ..records.frames import load_run
from ..system.errors import UserError
from ..system.files import json_text, read_json, write_json

ABBREVIATED = {  # keys that may be named without the part that holds them
    "ensemble": ("loss", "top1", "top5"),
    "pairs": ("disagreement", "correlation"),
}

CacheEntry = dict[str, Any]


class ResultCache:
    """Results by query and checkpoints, in a JSON file.

    A checkpoint is unchanged if its path, size and modification time are; results of a changed one are computed again.

    Args:
        path: of the file; it is read if it exists, and written after each new result.
    """

    def __init__(self, path: Path):
        self.path = path
        entries: list[CacheEntry] = read_json(path).get("results", [])
        self._entries = {cache_key(entry): entry for entry in entries}
        self._used: dict[str, CacheEntry] = {}

    def get(self, query: dict[str, Any], checkpoints: Sequence[Path], compute: Callable[[], Any]) -> Any:
        """Returns a result, computed unless it is cached; numbers that are not finite become None.

        Args:
            query: what is computed, with its arguments.
            checkpoints: from which.
            compute: returns it.
        """
        entry: CacheEntry = {"query": query, "checkpoints": [self._identity(path) for path in checkpoints]}
        key = cache_key(entry)
        if key not in self._entries:
            self._entries[key] = {**entry, "result": json.loads(json_text(compute()))}
            write_json(self.path, {"results": list(self._entries.values())})
        self._used[key] = self._entries[key]
        return self._entries[key]["result"]

    def prune(self) -> None:
        """Drops from the file the results that were not used since it was read."""
        if self._used or self._entries:
            write_json(self.path, {"results": list(self._used.values())})

    def _identity(self, path: Path) -> dict[str, Any]:
        status = path.stat()
        relative = os.path.relpath(path.resolve(), self.path.parent.resolve())
        return {"path": relative, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}


def cache_key(entry: CacheEntry) -> str:
    """Returns the key of an entry of the cache."""
    return json.dumps([entry.get("query"), entry.get("checkpoints")], sort_keys=True)


def ensemble_values(runs: dict[int, Path], query: dict[str, Any], cache: ResultCache) -> dict[int, float]:
    """Returns values of ensembles by seed, as `trainopt evaluate --ensemble` computes them.

    Args:
        runs: folders by seed.
        query: `of: checkpoints`, an ensemble of each run's checkpoints (of those in `which`, if it is set); or
            `of: seeds`, an ensemble of the last checkpoints of each `size` runs with successive seeds, whose value is
            that of the first seed, and of which an incomplete last one is left out. `value` is a dotted key of the
            result of `evaluate_ensemble`; of several numbers, as for pairs, the mean.
        cache: of earlier results.
    """
    of = query.get("of")
    if of not in ("checkpoints", "seeds"):
        raise UserError(f"ensemble: of: must be checkpoints or seeds, and is {of}")
    if of == "checkpoints":
        require_keys("ensemble", query, ("of", "value"), ("which",))
        which = query.get("which")
        groups = {seed: select_checkpoints(folder, which, "ensemble: which") for seed, folder in runs.items()}
    else:
        require_keys("ensemble", query, ("of", "size", "value"))
        size, seeds = query["size"], sorted(runs)
        if not isinstance(size, int) or size < 2:
            raise UserError(f"ensemble: size: must be an integer >= 2, and is {size}")
        starts = range(0, len(seeds) - size + 1, size)
        groups = {seeds[i]: [checkpoints_of(runs[s])[-1] for s in seeds[i : i + size]] for i in starts}
    values = {}
    for seed, paths in groups.items():

        def compute(paths: list[Path] = paths) -> dict[str, Any]:
            from ..analysis.ensemble import evaluate_ensemble

            return evaluate_ensemble(paths)

        values[seed] = value_at(cache.get({"ensemble": {}}, paths, compute), query["value"], "ensemble")
    return values


def landscape_values(runs: dict[int, Path], query: dict[str, Any], cache: ResultCache) -> dict[int, float]:
    """Returns values of the line between two checkpoints of each run, as `trainopt landscape` computes them.

    Args:
        runs: folders by seed.
        query: `between`, the indices of two checkpoints of a run; `value`, as `distance` or `barriers.test_error`
            (its height); `points` and `images` as the command takes them.
        cache: of earlier results.
    """
    require_keys("landscape", query, ("between", "value"), ("points", "images"))
    if not isinstance(query["between"], list) or len(query["between"]) != 2:
        raise UserError(f"landscape: between: must be two indices of checkpoints, and is {query['between']}")
    arguments = {key: query[key] for key in ("points", "images") if key in query}
    values = {}
    for seed, folder in runs.items():
        paths = select_checkpoints(folder, query["between"], "landscape: between")

        def compute(paths: list[Path] = paths) -> dict[str, Any]:
            from ..analysis.landscape import landscape

            return landscape(paths, beyond=0.0, **arguments)["lines"][0]

        values[seed] = value_at(cache.get({"landscape": arguments}, paths, compute), query["value"], "landscape")
    return values


def checkpoints_of(folder: Path) -> list[Path]:
    """Returns the checkpoints in a run's folder by step; the last is that of its end."""
    from ..analysis.checkpoints import checkpoint_path
    from ..records.checkpoint_files import numbered_checkpoints

    last = checkpoint_path(folder, "last")
    if not last.exists():
        raise UserError(f"{folder}: has no checkpoint")
    steps = load_run(folder).summary["steps"]
    numbered = reversed(numbered_checkpoints(folder / "checkpoints"))
    return [path for step, path in numbered if path != last and step != steps] + [last]


def select_checkpoints(folder: Path, which: Any, key: str) -> list[Path]:
    """Returns the checkpoints of a run with these indices, of which negative ones count from the end; None: all.

    Args:
        folder: of the run.
        which: the indices.
        key: that has them, for errors.
    """
    checkpoints = checkpoints_of(folder)
    if which is None:
        return checkpoints
    count = len(checkpoints)
    for i in parse(key, which, list[int]):
        if not -count <= i < count:
            raise UserError(f"{key}: {i}: the runs have {count} checkpoints, 0 to {count - 1}")
    return [checkpoints[i] for i in which]


def value_at(result: Any, name: Any, what: str) -> float:
    """Returns a number by its dotted key; of a list the mean, of a barrier the height; nan where it is None.

    >>> value_at({"pairs": [{"disagreement": 1.0}, {"disagreement": 3.0}]}, "disagreement", "ensemble")
    2.0
    """
    first = str(name).partition(".")[0]
    omitted = [part for part, names in ABBREVIATED.items() if part in result and first in names]
    nodes = [result]
    for key in omitted + str(name).split("."):
        nodes = [item for node in nodes for item in (node if isinstance(node, list) else [node])]
        if not all(isinstance(node, dict) and key in node for node in nodes):
            known = [name for node in nodes[:1] if isinstance(node, dict) for name in node]
            raise UserError(
                f"{what}: value: {name}: no such value" + (f"; there are {', '.join(known)}" if known else "")
            )
        nodes = [node[key] for node in nodes]
    numbers = [node.get("height") if isinstance(node, dict) else node for node in nodes]
    known_numbers = [float(number) for number in numbers if isinstance(number, int | float)]
    if not known_numbers and any(number is not None for number in numbers):
        raise UserError(f"{what}: value: {name}: is not a number")
    return fmean(known_numbers) if known_numbers else math.nan
