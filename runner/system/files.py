"""Files that are written completely or not at all, strict JSON, and paths and numbers in messages."""

import json
import math
import os
import re
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

_encode = json.JSONEncoder(allow_nan=False).encode


def write_temporary(path: Path, content: bytes | memoryview) -> Path:
    """Writes the content of `path` to a temporary file beside it, flushed to disk, for `os.replace`; returns its path.

    Raises:
        OSError: it cannot be written, as on a full disk; names `path`. The temporary file is removed.
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
    """Appends to a file opened without a buffer: everything or nothing.

    Raises:
        OSError: it cannot be written, as on a full disk; names the file, which is as before.
    """
    start, rest = file.tell(), memoryview(text)
    try:
        while rest:  # a full disk takes only a part
            rest = rest[file.write(rest) :]
    except OSError as error:
        with suppress(OSError):
            file.truncate(start)
            file.seek(start)
        raise OSError(error.errno, error.strerror, file.name) from error


def flush_folder(folder: Path) -> None:
    """Flushes renames within a folder to disk, on systems where folders can be opened."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8: to a temporary name, flushed to disk, renamed.

    Bytes of a file's name that the system could not decode stand in `text` as surrogates: they are decoded here.
    """
    content = text.encode(errors="surrogateescape").decode(errors="replace").encode()
    os.replace(write_temporary(path, content), path)
    flush_folder(path.parent)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: dict[str, Any]) -> str:
    """Returns the text that `write_json` writes: strict JSON; numbers that it lacks (nan, inf) become null."""
    return json.dumps(without_nonfinite(content), indent=2, allow_nan=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file; empty where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def without_nonfinite(value: Any) -> Any:
    """Returns a value with None in place of numbers that JSON lacks (nan, inf)."""
    if isinstance(value, dict):
        return {k: without_nonfinite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_nonfinite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shared_cache() -> Path:
    """Returns the folder of results that all runs share: TRAINOPT_CACHE, or one in the home folder."""
    return Path(os.environ.get("TRAINOPT_CACHE", "~/.cache/trainopt")).expanduser()


def shown(path: Path) -> str:
    """Returns a path as text, relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def plural(count: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> plural(1, "method"), plural(2, "study"), plural(0, "key")
    ('1 method', '2 studies', '0 keys')
    """
    return f"{count} {noun if count == 1 else re.sub('(?<![aeiou])y$', 'ie', noun) + 's'}"


def json_line(record: dict[str, Any]) -> str:
    """Returns a record as strict JSON in one line; numbers that JSON lacks (nan, inf) become null."""
    try:
        return _encode(record)
    except ValueError:
        return _encode(without_nonfinite(record))
