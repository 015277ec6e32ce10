"""MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 and SVHN, from <root>/NAME.npz or torchvision's files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, one_line
from .arrays import Arrays, read_npz

# name in conf/data -> (class of torchvision.datasets, number of classes)
SETS = {
    "mnist": ("MNIST", 10),
    "fashion_mnist": ("FashionMNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
}
FILES = {  # of torchvision, below root; in messages
    "mnist": "MNIST/raw/*-ubyte",
    "fashion_mnist": "FashionMNIST/raw/*-ubyte",
    "cifar10": "cifar-10-batches-py/*",
    "cifar100": "cifar-100-python/*",
    "svhn": "*_32x32.mat",
}
NO_CONNECTION = "urlopen error"  # in the text of torchvision's error


def torchvision_arrays(name: str, root: str, download: bool = False) -> Arrays:
    """Reads MNIST, Fashion-MNIST, CIFAR-10 or CIFAR-100.

    Args:
        name: a key of `SETS`.
        root: folder; <root>/NAME.npz is read where it exists, else torchvision's files below root.
        download: let torchvision fetch missing files.

    Raises:
        DataError: the name is unknown, or files are missing or damaged.
    """
    if name not in SETS:
        raise DataError(f"data.name={name}: must be one of {', '.join(SETS)}")
    class_name, num_classes = SETS[name]
    folder = Path(root).expanduser()
    packed = folder / f"{name}.npz"
    if packed.is_file():
        return read_npz(packed, num_classes)
    (x_train, y_train), (x_test, y_test) = (
        _read(name, class_name, folder, download, train=part == "train") for part in ("train", "test")
    )
    return Arrays(x_train, y_train, x_test, y_test, where=f"{name} in {folder}", num_classes=num_classes)


def svhn(root: str, download: bool = False, extra: bool = False) -> Arrays:
    """Reads SVHN.

    Args:
        root: folder; <root>/svhn.npz is read where it exists, else torchvision's files in root.
        download: let torchvision fetch missing files.
        extra: append the extra images, of extra_32x32.mat in root, to the training images.

    Raises:
        DataError: files are missing or damaged.
    """
    folder = Path(root).expanduser()
    packed = folder / "svhn.npz"
    if extra and not download and not (folder / "extra_32x32.mat").is_file():
        raise DataError(
            f"svhn: extra_32x32.mat not found in {folder}; put it there, fetch it with data.download=true,"
            " or leave the extra images out with data.extra=false"
        )
    if packed.is_file():
        data = read_npz(packed, 10)
    else:
        (x_train, y_train), (x_test, y_test) = (
            _read("svhn", "SVHN", folder, download, split=part) for part in ("train", "test")
        )
        data = Arrays(x_train, y_train, x_test, y_test, where=f"svhn in {folder}", num_classes=10)
    if not extra:
        return data
    images, labels = _read("svhn", "SVHN", folder, download, split="extra")
    both = np.concatenate([data.x_train, images]), np.concatenate([data.y_train, labels])
    return replace(data, x_train=both[0], y_train=both[1])


def _read(name: str, class_name: str, folder: Path, download: bool, **part: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns images (N, H, W[, C]) and labels (N,) of one part of a torchvision data set."""
    import torchvision.datasets

    try:
        data = getattr(torchvision.datasets, class_name)(str(folder), download=download, **part)
    except Exception as error:  # whatever a damaged file or a missing network raises
        text = one_line(error)
        where = f"{name}.npz or torchvision's files ({FILES[name]})"
        if "not found" in text and not download:
            raise DataError(
                f"{name}: not found in {folder}; put {where} there,"
                " set data.root or TRAINOPT_DATA to where they are, or fetch them with data.download=true"
            ) from error
        if NO_CONNECTION in text:
            raise DataError(
                f"{name}: cannot be downloaded, there is no connection to the server ({text}); put {where} into"
                f" {folder}: on a machine with a network, data={name} data.download=true data.root=DIR fetches these"
                " files into DIR"
            ) from error
        raise DataError(f"{name} in {folder}: cannot be read, files may be missing or damaged ({text})") from error
    images = np.asarray(data.data)
    if class_name == "SVHN":
        return images.transpose(0, 2, 3, 1), np.asarray(data.labels)
    return images, np.asarray(data.targets)
