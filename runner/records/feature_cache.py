"""Features on disk, shared by runs: written whole or not at all, checked when they are read."""

import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..system.files import flush_folder, read_json, write_json

PIECE = 2**24  # bytes that are read at a time for a checksum


class FeatureCache:
    """Arrays (N, F) of float32 in a folder: KEY.npy and, written after it, KEY.json with shape and checksum.

    A file that is cut off or altered, or whose writer was killed, is taken for none. Two processes that want the
    same key take turns, where the file system knows locks (fcntl); elsewhere both compute, and the later's file,
    which holds the same, takes the place of the earlier's.

    Args:
        folder: created where something is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, key: str) -> np.ndarray | None:
        """Returns an array, mapped from its file and private to this process; None where there is none."""
        about, path = read_json(self._path(key, "json")), self._path(key, "npy")
        with suppress(OSError, ValueError):
            if checksum(path) == about.get("crc32"):
                values = np.load(path, mmap_mode="c")  # of a map that cannot be written torch makes no tensor
                if list(values.shape) == about["shape"]:
                    return values
        return None

    @contextmanager
    def writer(
        self, key: str, shape: tuple[int, int], about: dict[str, Any]
    ) -> Iterator[Callable[[np.ndarray], object]]:
        """Writes an array, and then what it is; yields what appends a block of its rows.

        Raises:
            OSError: there is no room for it, or the folder cannot be written; said before the first block is
                asked for, where the system can tell.
        """
        path = self._path(key, "npy")
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, file.tell() + 4 * shape[0] * shape[1])
                yield lambda block: file.write(np.ascontiguousarray(block, "<f4").data)
                file.flush()
                os.fsync(file.fileno())
            content = {"shape": list(shape), "crc32": checksum(temporary), "about": about}
            self._path(key, "json").unlink(missing_ok=True)  # it is about the file that is replaced
            os.replace(temporary, path)
            write_json(self._path(key, "json"), content)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.folder)) from error
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(self.folder)

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Is the only process that is concerned with a key while entered; what killed ones left is removed."""
        with ExitStack() as held:
            with suppress(ImportError, OSError):  # where there are no locks, and where files can only be read
                import fcntl

                self.folder.mkdir(parents=True, exist_ok=True)
                file = held.enter_context(open(self._path(key, "lock"), "w", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it when this process ends, however it does
                for left in self.folder.glob(f"{key}.npy.*.tmp"):
                    left.unlink()
            yield

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}.{suffix}"


def checksum(path: Path) -> int:
    """Returns the CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            value = zlib.crc32(piece, value)
    return value
