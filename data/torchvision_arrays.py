"""MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100 and SVHN, from <root>/NAME.npz or torchvision's files."""

from pathlib import Path

import numpy as np

from .arrays import Arrays, DataError, arrays

# name in conf/data -> (class of torchvision.datasets, number of classes)
SETS = {
    "mnist": ("MNIST", 10),
    "fashion_mnist": ("FashionMNIST", 10),
    "cifar10": ("CIFAR10", 10),
    "cifar100": ("CIFAR100", 100),
    "svhn": ("SVHN", 10),
}


def torchvision_arrays(name: str, root: str, download: bool = False, extra: bool = False) -> Arrays:
    """Read a data set whole.

    Args:
        name: a key of `SETS`.
        root: folder; <root>/NAME.npz is read where it stands, else torchvision's files below root.
        download: let torchvision fetch missing files.
        extra: SVHN: add its extra images to the training images.
    """
    if name not in SETS:
        raise DataError(f"data.name={name}: is none of {', '.join(SETS)}")
    class_name, num_classes = SETS[name]
    folder = Path(root).expanduser()
    packed = folder / f"{name}.npz"
    if packed.is_file() and not extra:
        return arrays(str(packed), num_classes)
    splits = ["train", "extra", "test"] if extra else ["train", "test"]
    parts = {part: _read(class_name, folder, part, download, name) for part in splits}
    if extra:
        parts["train"] = tuple(np.concatenate(pair) for pair in zip(parts["train"], parts["extra"], strict=True))
    (x_train, y_train), (x_test, y_test) = parts["train"], parts["test"]
    return Arrays(x_train, y_train, x_test, y_test, where=f"{name} in {folder}", num_classes=num_classes)


def _read(class_name: str, folder: Path, part: str, download: bool, name: str) -> tuple:
    import torchvision.datasets

    is_svhn = class_name == "SVHN"
    options = {"split": part} if is_svhn else {"train": part == "train"}
    try:
        data = getattr(torchvision.datasets, class_name)(str(folder), download=download, **options)
    except Exception as error:
        text = " ".join(str(error).split())
        if "not found" in text and not download:
            raise DataError(
                f"{name}: not found in {folder}; put {name}.npz or torchvision's files there,"
                " set data.root or TRAINOPT_DATA to where they are, or fetch them with data.download=true"
            ) from error
        raise DataError(f"{name} in {folder}: cannot be read, files may be missing or damaged ({text})") from error
    images = np.asarray(data.data)
    labels = np.asarray(data.labels if is_svhn else data.targets)
    return (images.transpose(0, 2, 3, 1) if is_svhn else images), labels
