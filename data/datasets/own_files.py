"""The user's own data in files: .npz, a folder of .npy, or a folder of Hugging Face's library `datasets`."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, one_line
from .arrays import ARRAY_NAMES, Arrays, read_archive, read_npz
from .hugging_face import is_hugging_face, read_hugging_face

PAIRS = (("x_test", "y_test"), ("x", "y"), ("images", "labels"), ("test_images", "test_labels"))  # of a test set
SEVERITIES = 5  # of a corruption


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
    if folder.is_dir() and any((folder / f"{name}.npy").exists() for name in ARRAY_NAMES):
        parts = {name: _read_npy(folder / f"{name}.npy") for name in ARRAY_NAMES}
        return Arrays(**parts, where=str(folder), num_classes=num_classes or 0)
    return read_npz(path, num_classes or 0)


def _read_npy(file: Path) -> np.ndarray:
    """Returns the array of a .npy, mapped: what is written to it does not reach the file."""
    if not file.is_file():
        raise DataError(f"{file}: no such file; {', '.join(f'{name}.npy' for name in ARRAY_NAMES)} are needed")
    try:
        return np.load(file, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{file}: cannot be read as .npy, it may be truncated ({one_line(error)})") from error


def read_test_arrays(path: str, severity: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Reads the inputs and targets of a further test set.

    Args:
        path: an .npz, or a folder of .npy, with x_test and y_test, x and y, images and labels, or test_images and
            test_labels (as MNIST-C); or a .npy of images beside which labels.npy lies, as in CIFAR-10-C (Hendrycks and
            Dietterich 2019, arXiv 1903.12261).
        severity: 1 to 5: one fifth of the samples, in their order, as CIFAR-10-C has them; None: all.

    Raises:
        DataError: a file is missing or damaged.
    """
    file = Path(path).expanduser()
    pairs = ", ".join(f"{x} and {y}" for x, y in PAIRS)
    if file.suffix == ".npy" and file.is_file():
        inputs, targets = _read_npy(file), _read_npy(file.parent / "labels.npy")
    elif file.is_dir():
        names = next((pair for pair in PAIRS if all((file / f"{name}.npy").is_file() for name in pair)), None)
        if names is None:
            hint = f", or a file beside labels.npy: {file / 'NAME.npy'}" * (file / "labels.npy").is_file()
            raise DataError(f"{file}: is a folder without .npy files called {pairs}{hint}")
        inputs, targets = (_read_npy(file / f"{name}.npy") for name in names)
    else:
        archive = read_archive(file, [*dict.fromkeys(name for pair in PAIRS for name in pair)], f"{pairs} are needed")
        names = next((pair for pair in PAIRS if set(pair) <= set(archive)), None)
        if names is None:
            raise DataError(f"{file}: holds no arrays called {pairs}")
        inputs, targets = (archive[name] for name in names)
    if severity is None:
        return inputs, targets
    if len(inputs) % SEVERITIES or len(inputs) != len(targets):
        raise DataError(f"{file}: has {len(inputs)} inputs and {len(targets)} targets, no {SEVERITIES} equal parts")
    part = slice((severity - 1) * len(inputs) // SEVERITIES, severity * len(inputs) // SEVERITIES)
    return inputs[part], targets[part]
