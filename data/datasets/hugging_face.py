"""Data of Hugging Face's library `datasets`, in a folder that it wrote."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from ..errors import DataError, listed, one_line

DICT_FILE, ONE_FILE = "dataset_dict.json", "dataset_info.json"
TARGETS = ("label", "labels", "target", "targets")  # names of the column of targets
VALIDATION = ("validation", "valid", "val")


def is_hugging_face(folder: Path) -> bool:
    """Returns whether the library `datasets` wrote a folder."""
    return (folder / DICT_FILE).is_file() or (folder / ONE_FILE).is_file()


def read_hugging_face(folder: Path, num_classes: int | None) -> dict[str, Any]:
    """Returns the Datasets in a folder that datasets.DatasetDict.save_to_disk wrote, as `from_splits`.

    Raises:
        DataError: the library is not installed, or there are no such splits and columns.
    """
    if find_spec("datasets") is None:
        raise DataError(f"{folder}: is of Hugging Face's datasets, which is not installed; pip install datasets")
    if not (folder / DICT_FILE).is_file():
        hint = "dataset.train_test_split(0.1).save_to_disk(DIR)"
        raise DataError(f"{folder}: holds one Dataset; a DatasetDict with train and test is needed: {hint}")
    import datasets

    try:
        splits = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise DataError(f"{folder}: cannot be read by datasets ({one_line(error)})") from error
    return from_splits(splits, str(folder), num_classes)


def are_splits(contents: Mapping[str, Any]) -> bool:
    """Returns whether these are splits of the library `datasets`, as a DatasetDict has them."""
    return bool(contents) and all(type(one).__module__.startswith("datasets.") for one in contents.values())


def from_splits(splits: Mapping[str, Any], where: str, num_classes: int | None = None) -> dict[str, Any]:
    """Returns Datasets by `train`, `test` and, if there is one, `validation`, and `num_classes`.

    The target is the column `label`, `labels`, `target` or `targets`. The input is the only column of images, or the
    only other column, of numbers or of lists of numbers of one length; several columns of numbers become a vector, in
    their order.

    Args:
        splits: of the library.
        where: where they are from, with which messages begin.
        num_classes: number of classes; None: that of a ClassLabel, else counted.

    Raises:
        DataError: there are no such splits and columns.
    """
    if "train" not in splits or "test" not in splits:
        raise DataError(f"{where}: has the splits {', '.join(splits)}; train and test are needed")
    names = {"train": "train", "test": "test"}
    validation = next((name for name in VALIDATION if name in splits), None)
    if validation is not None:
        names["validation"] = validation
    target, inputs = _columns(splits["train"].features, where)
    if num_classes is None:
        num_classes = getattr(splits["train"].features[target], "num_classes", 0)
    parts = {part: _read(splits[name], target, inputs, f"{where}: {name}") for part, name in names.items()}
    return {**parts, "num_classes": num_classes}


def _columns(features: Any, where: str) -> tuple[str, list[str]]:
    """Returns the names of the column of targets and of those of inputs."""
    from datasets import Image

    columns = ", ".join(features)
    targets = [name for name in TARGETS if name in features]
    if len(targets) != 1:
        raise DataError(f"{where}: has the columns {columns}; one of them must be called {', '.join(TARGETS)}")
    inputs = [name for name in features if name != targets[0]]
    images = [name for name in inputs if isinstance(features[name], Image)]
    unsuitable = [name for name in inputs if name not in images and not _is_numeric(features[name])]
    if images:
        unsuitable = [name for name in inputs if name != images[0]]
    if unsuitable or not inputs:
        what = "beside the images" if images else "of no numbers"
        raise DataError(
            f"{where}: has columns {what}, {listed(unsuitable)}; leave them out:"
            f" splits.remove_columns({unsuitable}).save_to_disk(DIR)"
        )
    return targets[0], inputs


def _is_numeric(feature: Any) -> bool:
    """Returns whether a column holds numbers, or lists or arrays of them."""
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return _is_numeric(inner)
    return getattr(feature, "dtype", "").startswith(("int", "uint", "float", "bool"))


def _read(split: Any, target: str, inputs: list[str], where: str) -> Dataset:
    """Returns a split as a Dataset: numbers in memory, images read when they are asked for."""
    from datasets import Image

    if isinstance(split.features[inputs[0]], Image):
        return Images(split, inputs[0], target)
    columns = [_numbers(split, name, where) for name in inputs]
    values = columns[0] if len(columns) == 1 else _vector(columns, inputs, where)
    return TensorDataset(torch.from_numpy(values), torch.from_numpy(_numbers(split, target, where)))


def _numbers(split: Any, name: str, where: str) -> np.ndarray:
    """Returns a column as an array; DataError where values are no numbers or missing, or lists differ in length."""
    column = split.select_columns([name]).with_format("numpy")[:][name]
    try:
        array = np.array(column)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{where}: column {name} holds no numbers, lacks some, or has lists of different lengths")
    return array


def _vector(columns: list[np.ndarray], names: list[str], where: str) -> np.ndarray:
    """Returns several columns of numbers (N,) as vectors (N, D)."""
    several = [name for name, column in zip(names, columns, strict=True) if column.ndim > 1]
    if several:
        raise DataError(f"{where}: columns of lists, {listed(several)}, cannot be joined with others; leave one column")
    return np.stack(columns, axis=1)


class Images(Dataset):
    """A split with a column of images.

    Args:
        split: of `datasets`.
        image: name of the column of images.
        target: name of the column of targets.

    Attributes:
        targets: of all images.
    """

    def __init__(self, split: Any, image: str, target: str):
        self.split, self.image, self.target = split, image, target
        self.targets = split.select_columns([target]).with_format("numpy")[:][target]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        row = self.split[index]
        return row[self.image], row[self.target]
