"""Files that are written whole or not at all, and their names as people see them."""

import json
import math
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any


def write_temporary(path: Path, content: bytes | memoryview) -> Path:
    """Writes what `path` is to hold beside it, flushed to disk, for `os.replace`; returns where.

    Raises:
        OSError: it cannot be written, as on a full disk; names the path. What was written is removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    return temporary


def append_whole(file: FileIO, text: bytes) -> None:
    """Appends to a file that was opened without a buffer.

    Raises:
        OSError: it cannot be written, as on a full disk; names the file, which then is as it was.
    """
    start, rest = file.tell(), memoryview(text)
    try:
        while rest:  # a disk that fills up takes a part
            rest = rest[file.write(rest) :]
    except OSError as error:
        with suppress(OSError):
            file.truncate(start)
            file.seek(start)
        raise OSError(error.errno, error.strerror, file.name) from error


def flush_folder(folder: Path) -> None:
    """Makes renames within a folder last, on systems where folders can be opened."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Writes a text file: to a temporary name, flushed to disk, renamed."""
    os.replace(write_temporary(path, text.encode()), path)
    flush_folder(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """Returns what `write_json` writes: strict JSON; numbers that it lacks (nan, inf) become null."""
    return json.dumps(plain(content), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def plain(value: Any) -> Any:
    """Returns a value with null in place of numbers that JSON lacks."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shared_cache() -> Path:
    """Returns the folder of what is computed once for all runs: TRAINOPT_CACHE, or one in the home folder."""
    return Path(os.environ.get("TRAINOPT_CACHE", "~/.cache/trainopt")).expanduser()


def shown(path: Path) -> str:
    """Writes a path relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


_encode = json.JSONEncoder(allow_nan=False).encode


def to_json(row: dict[str, Any]) -> str:
    """Returns a row as strict JSON; numbers that JSON lacks (nan, inf) become null."""
    try:
        return _encode(row)
    except ValueError:
        return _encode(plain(row))
