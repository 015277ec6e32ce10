"""Figures of a study that are computed from checkpoints: ensembles, and the line between two."""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..records.frames import load_run
from ..system.errors import UserError
from ..system.files import json_text, read_json, write_json
from .schema import reject_unknown

SHORT = {
    "ensemble": ("loss", "top1", "top5"),
    "pairs": ("disagreement", "correlation"),
}  # may be named without these


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
        """Returns what is kept, or else compute it and keep it; numbers that are not finite become None.

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
        """Leaves in the file only what was asked for since it was read."""
        if self._used or self._known:
            write_json(self.path, {"kept": list(self._used.values())})

    def _identity(self, path: Path) -> Entry:
        there = path.stat()
        place = os.path.relpath(path.resolve(), self.path.parent.resolve())
        return {"path": place, "bytes": there.st_size, "changed_ns": there.st_mtime_ns}


def name_of(entry: Entry) -> str:
    """Returns what an entry is found by."""
    return json.dumps([entry.get("asked"), entry.get("checkpoints")], sort_keys=True)


def of_checkpoints(runs: dict[int, Path], asked: dict[str, Any], kept: Kept) -> dict[int, float]:
    """Returns what ensembles of checkpoints do, as `trainopt evaluate --ensemble` says it.

    Args:
        runs: folders by seed.
        asked: `of: checkpoints`, those that each run kept (with `which`, some of them), a value a seed; or
            `of: seeds`, the last ones of so many (`size`) runs with successive seeds, a value a group, by its
            first seed; a group that is not complete is left out. `value` is a number of `evaluate_ensemble`,
            dotted; of several, as of pairs, the mean.
        kept: what was computed before.
    """
    of = asked.get("of")
    if of not in ("checkpoints", "seeds"):
        raise UserError(f"ensemble: of: must be checkpoints or seeds, and is {of}")
    if of == "checkpoints":
        check_asked("ensemble", asked, ("of", "value"), ("which",))
        groups = {seed: chosen(folder, asked.get("which"), "ensemble: which") for seed, folder in runs.items()}
    else:
        check_asked("ensemble", asked, ("of", "size", "value"))
        size, seeds = asked["size"], sorted(runs)
        if not isinstance(size, int) or size < 2:
            raise UserError(f"ensemble: size: must be an integer >= 2, and is {size}")
        starts = range(0, len(seeds) - size + 1, size)
        groups = {seeds[i]: [kept_checkpoints(runs[s])[-1] for s in seeds[i : i + size]] for i in starts}
    found = {}
    for seed, paths in groups.items():

        def compute(paths: list[Path] = paths) -> dict[str, Any]:
            from ..analysis.ensemble import evaluate_ensemble

            return evaluate_ensemble(paths)

        found[seed] = number_at(kept.get({"ensemble": {}}, paths, compute), asked["value"], "ensemble")
    return found


def of_line(runs: dict[int, Path], asked: dict[str, Any], kept: Kept) -> dict[int, float]:
    """Returns what lies between two checkpoints of each run, as `trainopt landscape` says it of a line.

    Args:
        runs: folders by seed.
        asked: `between`, two numbers of checkpoints that the run kept; `value`, as `distance` or
            `barriers.test_error` (its height); `points` and `images` as the command takes them.
        kept: what was computed before.
    """
    check_asked("landscape", asked, ("between", "value"), ("points", "images"))
    if not isinstance(asked["between"], list) or len(asked["between"]) != 2:
        raise UserError(f"landscape: between: must be two numbers of checkpoints, and is {asked['between']}")
    arguments = {key: asked[key] for key in ("points", "images") if key in asked}
    found = {}
    for seed, folder in runs.items():
        paths = chosen(folder, asked["between"], "landscape: between")

        def compute(paths: list[Path] = paths) -> dict[str, Any]:
            from ..analysis.landscape import landscape

            return landscape(paths, beyond=0.0, **arguments)["lines"][0]

        found[seed] = number_at(kept.get({"landscape": arguments}, paths, compute), asked["value"], "landscape")
    return found


def kept_checkpoints(folder: Path) -> list[Path]:
    """Returns the checkpoints that a run kept, in the order of their steps; the last is where it ended."""
    from ..analysis.checkpoints import checkpoint_path
    from ..records.checkpoint_files import numbered_checkpoints

    last = checkpoint_path(folder, "last")
    if not last.exists():
        raise UserError(f"{folder}: has kept no checkpoint")
    ended = load_run(folder).summary["steps"]
    return [
        path for step, path in reversed(numbered_checkpoints(folder / "checkpoints")) if path != last and step != ended
    ] + [last]


def chosen(folder: Path, which: Any, name: str) -> list[Path]:
    """Returns some of the checkpoints that a run kept, by their numbers; negative ones count from the end."""
    there = kept_checkpoints(folder)
    if which is None:
        return there
    if not isinstance(which, list) or not all(isinstance(i, int) for i in which):
        raise UserError(f"{name}: must be a list of numbers, and is {which}")
    for i in which:
        if not -len(there) <= i < len(there):
            raise UserError(f"{name}: {i}: the runs have kept {len(there)} checkpoints, 0 to {len(there) - 1}")
    return [there[i] for i in which]


def number_at(found: Any, name: Any, what: str) -> float:
    """Returns a number by its dotted name; of a list the mean, of a barrier the height; nan where there is none.

    >>> number_at({"pairs": [{"disagreement": 1.0}, {"disagreement": 3.0}]}, "disagreement", "ensemble")
    2.0
    """
    first = str(name).partition(".")[0]
    part = next((part for part, names in SHORT.items() if part in found and first in names), None)
    places = [found]
    for key in ([part] if part else []) + str(name).split("."):
        places = [item for place in places for item in (place if isinstance(place, list) else [place])]
        if not all(isinstance(place, dict) and key in place for place in places):
            known = [key for place in places[:1] if isinstance(place, dict) for key in place]
            there = f"; there are {', '.join(known)}" if known else ""
            raise UserError(f"{what}: value: {name}: is not there{there}")
        places = [place[key] for place in places]
    numbers = [place.get("height") if isinstance(place, dict) else place for place in places]
    known_numbers = [float(number) for number in numbers if isinstance(number, int | float)]
    if not known_numbers and any(number is not None for number in numbers):
        raise UserError(f"{what}: value: {name}: is no number")
    return fmean(known_numbers) if known_numbers else math.nan


def check_asked(name: str, asked: dict[str, Any], needed: Iterable[str], more: Iterable[str] = ()) -> None:
    """Raises UserError for an unknown key of a part of a figure, or one that is not there."""
    needed = list(needed)
    reject_unknown(f"{name}: ", asked, [*needed, *more])
    for key in needed:
        if key not in asked:
            raise UserError(f"{name}: lacks {key}")
