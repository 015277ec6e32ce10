"""Further test sets of a run, as corrupted images: read, and compared with the data that the network is for."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from trainopt.data import (
    Arrays,
    DataError,
    Folders,
    TorchDatasets,
    folder_arrays,
    read_test_arrays,
    torch_datasets,
    with_test_images,
)

from ..config.instantiate import construct
from ..system.errors import UserError, nearest, one_line

AnyData = Arrays | Folders | TorchDatasets
# kinds of records, sets whose size is in summaries, and names beside which the results stand in them
RESERVED = ("train", "training", "test", "validation", "probe", "control", "event", "loss", "step", "epoch", "best")
KEYS = ("path", "severity")


def read_evaluation_sets(config: DictConfig, data: AnyData) -> dict[str, AnyData]:
    """Returns the further test sets of a configuration by name; each is the part `test` of what is returned.

    Args:
        config: of the run.
        data: that the network is for.

    Raises:
        UserError: a name is that of another kind of record, or a set cannot be read, or has another form than the data.
    """
    sets = {}
    for name, node in (config.evaluation_sets or {}).items():
        section = f"evaluation_sets.{name}"
        check_name(str(name), config.get("metric") or ())
        check_node(section, node)
        try:
            one = read_evaluation_set(section, node, config, data)
        except DataError as error:
            raise UserError(f"{section}: {one_line(error)}") from error
        check_form(section, one, data)
        sets[str(name)] = one
    return sets


def check_name(name: str, metrics: Iterable[Any]) -> None:
    """Refuses names that are taken, or no words."""
    if not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise UserError(f"evaluation_sets.{name}: the name must be letters, digits, _ and -, a letter first")
    if name in (*RESERVED, "top1", "top5", "rmse", *map(str, metrics)):
        raise UserError(f"evaluation_sets.{name}: the name is taken by other records; give another, as {name}_shifted")


def check_node(section: str, node: Any) -> None:
    """Refuses a set that says neither what makes it nor where it is, and unknown keys."""
    if not isinstance(node, DictConfig) or ("_target_" in node) == ("path" in node):
        raise UserError(
            f"{section}: must have one of path and _target_, as in evaluation_sets={{fog: {{path: fog.npz}}}}"
        )
    for key in () if "_target_" in node else map(str, node):
        if key not in KEYS:
            raise UserError(f"{section}.{key}: unknown key{nearest(key, KEYS) or '; known are ' + ', '.join(KEYS)}")
    severity = node.get("severity")
    if "path" in node and not (severity is None or (type(severity) is int and 1 <= severity <= 5)):
        raise UserError(f"{section}.severity={severity}: must be an integer in [1, 5] or null")


def read_evaluation_set(section: str, node: DictConfig, config: DictConfig, data: AnyData) -> AnyData:
    """Returns a further test set, of the kind that the data is of, or Datasets."""
    if "path" not in node:
        return as_data(section, construct(node, section), config, data)
    path, severity = str(node.path), node.get("severity")
    is_folder = Path(path).expanduser().is_dir() and not list(Path(path).expanduser().glob("*.npy"))
    if is_folder and severity is not None:
        raise UserError(f"{section}.severity={severity}: is for files of arrays; leave it out")
    if isinstance(data, TorchDatasets):
        raise UserError(
            f"{section}.path: the data is a Dataset, whose transforms prepare inputs; give a _target_ that returns one"
        )
    if isinstance(data, Folders):
        if not is_folder:
            raise UserError(f"{section}.path={path}: must be a folder of images by class, as the data is one")
        return with_test_images(data, path)
    if is_folder and data.is_images and data.num_classes is not None:
        pair = folder_arrays(
            path, data.num_classes, 1 if config.data.channels is None and data.input_shape[0] == 1 else 3
        )
    else:
        pair = read_test_arrays(path, severity)
    return as_arrays(path, *pair, config, data)


def as_data(section: str, made: Any, config: DictConfig, data: AnyData) -> AnyData:
    """Returns what a function of the user returns for a test set: a Dataset, or inputs and targets."""
    if isinstance(made, dict):
        made = made.get("test", (made.get("x_test"), made.get("y_test")))
    if isinstance(made, Arrays):
        made = (made.x_test, made.y_test)
    if isinstance(made, tuple) and len(made) == 2 and all(isinstance(part, np.ndarray | Tensor) for part in made):
        if not isinstance(data, Arrays):
            raise UserError(f"{section}: the function returns arrays, must return a Dataset, as the data is one")
        return as_arrays(section, np.asarray(made[0]), np.asarray(made[1]), config, data)
    if not hasattr(made, "__getitem__") or isinstance(made, tuple | list | str):
        raise UserError(f"{section}: the function must return a Dataset, or a pair of arrays (inputs, targets)")
    contents = {"train": made, "test": made, "num_classes": data.num_classes}
    return torch_datasets(contents, config.data.workers)


def as_arrays(where: str, inputs: np.ndarray, targets: np.ndarray, config: DictConfig, data: Arrays) -> Arrays:
    """Returns arrays as a test set, with the channels and the padding that the data has got."""
    arrays = Arrays(inputs, targets, inputs, targets, where=where, num_classes=data.num_classes)
    if not arrays.is_images:
        return arrays
    if config.data.channels is not None:
        arrays = arrays.with_channels(config.data.channels)
    return arrays.padded(config.data.pad) if config.data.pad else arrays


def check_form(section: str, one: AnyData, data: AnyData) -> None:
    """Refuses a test set whose inputs or targets are not of the form of the data's."""
    for what, key in (("inputs", "input_shape"), ("inputs", "input_dtype"), ("targets", "target_shape")):
        actual, expected = getattr(one, key), getattr(data, key)
        if actual != expected:
            texts = [
                str(list(v)) if isinstance(v, tuple) else str(v).removeprefix("torch.") for v in (actual, expected)
            ]
            raise UserError(f"{section}: its {what} are {texts[0]}, those of the data {texts[1]}")
    if isinstance(one, Arrays) and isinstance(data, Arrays) and one.x_test.dtype != data.x_test.dtype:
        types = f"{one.x_test.dtype}, those of the data {data.x_test.dtype}"
        raise UserError(f"{section}: its inputs are {types}, which are on another scale")
