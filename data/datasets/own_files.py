"""The user's own data in files: .npz, a folder of .npy, or a folder of Hugging Face's library `datasets`."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, one_line
from .arrays import NAMES, Arrays, read_npz
from .hugging_face import is_hugging_face, read_hugging_face


def arrays(path: str, num_classes: int | None = None) -> Arrays | dict[str, Any]:
    """Reads the user's own data.

    Args:
        path: an .npz with x_train, y_train, x_test and y_test; a folder with a .npy of each of these names, which are
            mapped: only the needed parts of inputs that are no images are read; or a folder that
            datasets.DatasetDict.save_to_disk wrote.
        num_classes: number of classes; None: counted.

    Returns:
        Arrays, or Datasets by `train`, `test` and, if there is one, `validation`.

    Raises:
        DataError: a file is missing or damaged, or its contents are not of the form of `Arrays`.
    """
    folder = Path(path).expanduser()
    if folder.is_dir() and is_hugging_face(folder):
        return read_hugging_face(folder, num_classes)
    if folder.is_dir() and any((folder / f"{name}.npy").exists() for name in NAMES):
        parts = {name: _read_npy(folder / f"{name}.npy") for name in NAMES}
        return Arrays(**parts, where=str(folder), num_classes=num_classes or 0)
    return read_npz(path, num_classes or 0)


def _read_npy(file: Path) -> np.ndarray:
    """Returns the array of a .npy, mapped: what is written to it does not reach the file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; {', '.join(f'{name}.npy' for name in NAMES)} are needed")
    try:
        return np.load(file, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: cannot be read as .npy, it may be truncated ({one_line(error)})") from error
