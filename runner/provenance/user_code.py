"""The user's own code that a run uses: the modules of the classes that a configuration names, and their digests.

It is neither a part of this package nor of an installed one. A file's digest is taken when its module is first seen
here, right after the import: what a process runs is what it has imported, whatever becomes of the file.
"""

import hashlib
import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .repository import commit_of

PACKAGE = __package__.partition(".")[0]
INSTALLED = {"site-packages", "dist-packages"}
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
CELL = "__main__"  # the module of what is defined in a notebook
FINDERS = ("get_method", "get_class", "get_object", "get_static_method")  # of Hydra: `path` names what they return
CodeRecord = dict[str, Any]


class SeenModule(NamedTuple):
    """A module when it was first seen; `importlib.reload` gives it another spec."""

    name: str
    spec: Any
    digest: str | None


_seen: dict[str, SeenModule] = {}  # by the path of the file


def targets_of(config: Any) -> list[str]:
    """Returns the dotted names of classes and functions in a configuration of plain dicts and lists, each once."""
    return list(dict.fromkeys(_targets_in(config)))


def _targets_in(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        target = node.get("_target_")
        if isinstance(target, str):
            yield target
            if target.rpartition(".")[2] in FINDERS and isinstance(node.get("path"), str):
                yield node["path"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from _targets_in(part)


def note_imports(target: str) -> None:
    """Takes the digests of the user's modules that belong to a class or function that was imported a moment ago."""
    for module in modules_of(target):
        root, seen = root_of(module), _seen.get(file_of(module) or "")
        if root is not None and (seen is None or not _is_loaded(seen)):
            digests_below(root, module.__name__)


def used_code(targets: Iterable[str]) -> list[CodeRecord]:
    """Returns the user's code that classes and functions come from, an entry for each folder that modules lie in.

    Each is a dict: `folder`, the absolute path from which modules are imported (None: a notebook); `modules`, those
    that the configuration names; `commit` and `dirty` as of `commit_of`; and `files`, the SHA-256 digest of each of
    these modules and of all others imported from the folder and below, by path below the folder.

    Args:
        targets: dotted names.
    """
    by_root: dict[Path, dict[str, None]] = {}
    cells: dict[str, str | None] = {}
    for target in targets:
        for module in modules_of(target):
            root = root_of(module)
            if root is not None:
                by_root.setdefault(root, {})[module.__name__] = None
            elif module.__name__ == CELL and file_of(module) is None:
                cells[target] = cell_digest(target)
    records: list[CodeRecord] = []
    for root, modules in by_root.items():
        files: dict[str, str | None] = {}
        for name in modules:
            files |= digests_below(root, name)
        commit = commit_of(root, files)
        records.append({"folder": str(root), "modules": [*modules], **commit, "files": dict(sorted(files.items()))})
    if cells:
        records.append({"folder": None, "modules": [CELL], "commit": None, "dirty": None, "files": cells})
    return records


def digests_by_file(records: Iterable[CodeRecord]) -> dict[str, str | None]:
    """Returns the digest of each file in records of `used_code`."""
    return {file: digest for record in records for file, digest in record["files"].items()}


def differing_files(before: Iterable[CodeRecord], after: Iterable[CodeRecord]) -> list[str]:
    """Returns the files that two records of `used_code` have with different digests."""
    former = digests_by_file(before)
    return [file for file, digest in digests_by_file(after).items() if former.get(file, digest) != digest]


def code_changes(starts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns {step, files} of each start of a run whose code is not that of the start before it.

    Args:
        starts: the contents of environment.json, in their order.
    """
    pairs = [(after, differing_files(one.get("code", ()), after.get("code", ()))) for one, after in pairwise(starts)]
    return [{"step": start["step"], "files": files} for start, files in pairs if files]


def changed_files(records: Iterable[CodeRecord]) -> list[str]:
    """Returns the files of records of `used_code` that a run would now use in another form, or that are missing.

    Nothing is imported. What cannot be found from here has not changed.
    """
    changed = []
    for record in records:
        root = None if record["folder"] is None else present_root(record["modules"])
        for file, digest in record["files"].items():
            if record["folder"] is None:
                now = cell_digest(file) or digest
            else:
                now = digest if root is None else digest_of_file(root / file)
            if now != digest:
                changed.append(file)
    return changed


def modules_of(target: str) -> list[ModuleType]:
    """Returns the imported modules of a dotted name: the one that it names, and the one where that was defined."""
    parts = target.split(".")
    prefixes = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    name = next((prefix for prefix in prefixes if prefix in sys.modules), None)
    if name is None:
        return []
    found: Any = sys.modules[name]
    for part in parts[name.count(".") + 1 :]:
        found = getattr(found, part, None)
    defined = getattr(found, "__module__", None)
    names = dict.fromkeys([name, defined] if isinstance(defined, str) else [name])
    return [sys.modules[one] for one in names if one in sys.modules]


def root_of(module: ModuleType) -> Path | None:
    """Returns the folder from which a module of the user's is imported; None of one of this package or installed."""
    file, name = file_of(module), module.__name__
    if file is None or name.partition(".")[0] == PACKAGE:
        return None
    path = Path(file)
    if not is_own_file(path):
        return None
    depth = name.count(".") + (path.stem == "__init__")
    return path.parents[min(depth, len(path.parents) - 1)]


def is_own_file(path: Path) -> bool:
    """Returns whether a path is that of a file, and of none of an installed package or of Python."""
    return path.is_absolute() and INSTALLED.isdisjoint(path.parts) and not path.is_relative_to(STANDARD_LIBRARY)


def file_of(module: ModuleType) -> str | None:
    """Returns the absolute path of a module's file; None where it has none. A lazy module imports nothing for it."""
    file = getattr(module, "__dict__", {}).get("__file__")
    return file if isinstance(file, str) and os.path.isabs(file) else None


def present_root(modules: Iterable[str]) -> Path | None:
    """Returns the folder from which modules are, or would now be, imported; None where they are not found."""
    name = next(iter(modules)).partition(".")[0]
    if name in sys.modules:
        return root_of(sys.modules[name])
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(os.path.abspath(next(iter(spec.submodule_search_locations)))).parent
    return Path(os.path.abspath(spec.origin)).parent if spec.origin else None


def digests_below(root: Path, target_module: str) -> dict[str, str | None]:
    """Returns the digest of each of the user's modules that were imported from a folder and below, by path below it.

    Args:
        root: the folder.
        target_module: the program itself, `__main__`, counts only where it is this module.
    """
    start = str(root).rstrip(os.sep) + os.sep
    digests = {}
    for name, module in list(sys.modules.items()):
        path = file_of(module)
        if path is None or not path.startswith(start) or root_of(module) is None:
            continue
        if name in (CELL, "__mp_main__") and name != target_module:
            continue
        spec, seen = getattr(module, "__spec__", None), _seen.get(path)
        if seen is None or not _is_loaded(seen) or (seen.name == name and seen.spec is not spec):
            _seen[path] = SeenModule(name, spec, content_digest(path))
        digests[path.removeprefix(start).replace(os.sep, "/")] = _seen[path].digest
    return digests


def _is_loaded(seen: SeenModule) -> bool:
    """Returns whether a module is still the one that was seen."""
    return seen.name in sys.modules and getattr(sys.modules[seen.name], "__spec__", None) is seen.spec


def digest_of_file(path: Path) -> str | None:
    """Returns the digest of a file, of its former content where it was imported before it changed."""
    seen = _seen.get(str(path))
    return seen.digest if seen is not None and _is_loaded(seen) else content_digest(str(path))


def content_digest(path: str) -> str | None:
    """Returns the SHA-256 digest of a file's bytes; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None


def cell_digest(target: str) -> str | None:
    """Returns the digest of the notebook's cell that defines `__main__.NAME`; None where its text is not known."""
    found = getattr(sys.modules[CELL], target.partition(".")[2], None)
    functions = [found, *vars(found).values()] if isinstance(found, type) else [found]
    code = next((f.__code__ for f in functions if inspect.isfunction(f)), None)
    lines = linecache.getlines(code.co_filename) if code is not None else []
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None
