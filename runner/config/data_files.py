"""What a run reads from below data.root, and what of it is missing. Needs no torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .options import CONF

IDX = [f"raw/{part}-images-idx3-ubyte" for part in ("train", "t10k")]
IDX += [f"raw/{part}-labels-idx1-ubyte" for part in ("train", "t10k")]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
# torchvision's files of a data set, below data.root; torchvision itself, which knows them, takes seconds to import
TORCHVISION = {
    "mnist": [f"MNIST/{file}" for file in IDX],
    "fashion_mnist": [f"FashionMNIST/{file}" for file in IDX],
    "cifar10": [f"cifar-10-batches-py/{file}" for file in BATCHES],
    "cifar100": ["cifar-100-python/train", "cifar-100-python/test"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
}
EXTRA = "extra_32x32.mat"


def needs(values: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, str]:
    """Returns the option of `data`, and files and folders below data.root by the key that names them.

    Args:
        values: of the configuration of a run, by dotted key.
        choices: of options.
    """
    root = str(values["data.root"])
    below = {key: value for key, value in values.items() if isinstance(value, str) and is_below(value, root)}
    extra = {"data.extra": f"{root}/{EXTRA}"} if values.get("data.extra") else {}
    return {"data": str(choices["data"]), **extra, **below}


def is_below(text: str, root: str) -> bool:
    """Returns whether a value names a place below a folder.

    >>> is_below("/data/imagenet", "/data"), is_below("/data", "/data")
    (True, False)
    """
    return any(text.startswith(f"{top}/") for top in (root, str(Path(root).expanduser())))


def missing(files: dict[str, str], root: Path) -> list[str]:
    """Returns a line for each file or folder that is missing: where it is looked for, and how to get it.

    Args:
        files: as of `needs`.
        root: the folder of data sets.
    """
    name = files["data"]
    fetch = f"`trainopt data={name} %sdata.download=true debug=quick` fetches"
    lines = []
    if not is_present(name, root):
        lines.append(
            f"{name}: neither {name}.npz nor torchvision's files ({TORCHVISION[name][0]}, …) lie in {root}; "
            f"{fetch % ''} them, TRAINOPT_DATA=DIR names another folder"
        )
    for key, value in files.items():
        if key == "data" or Path(value).expanduser().exists():
            continue
        hints = {"data.path": how_it_lies(name), "data.extra": f"{fetch % 'data.extra=true '} it"}
        lines.append(f"{value} ({key}): is not there; {hints.get(key) or 'it has to be put there'}")
    return lines


def is_present(name: str, root: Path) -> bool:
    """Returns whether a data set lies in a folder; one that is not of torchvision always does."""
    files = TORCHVISION.get(name, [])
    return (root / f"{name}.npz").is_file() or all((root / file).is_file() for file in files)


def how_it_lies(name: str) -> str:
    """Returns what the YAML of a data set begins with, which says how it has to lie."""
    path = CONF / f"data/{name}.yaml"
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") if path.is_file() else ""
