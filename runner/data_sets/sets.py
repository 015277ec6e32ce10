"""The data of a run: what it is trained on and what it is evaluated on."""

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from trainopt.data import (
    ARRAY_NAMES,
    Arrays,
    Augmentation,
    DataError,
    DatasetSource,
    Folders,
    FolderSource,
    InMemory,
    NoData,
    Source,
    Tensors,
    TorchDatasets,
    TransformedInMemory,
    bootstrap,
    class_balanced,
    listed,
    missing_test_set,
    split,
    torch_datasets,
)

from ..config.instantiate import construct, find
from ..config.options import COMMON
from ..system.display import LongWork
from ..system.errors import UserError, one_line
from ..system.files import read_json
from .checks import check_image_keys, check_targets
from .evaluation_sets import AnyData, read_evaluation_sets


def load_data(config: DictConfig, folder: Path | None) -> AnyData:
    """Reads the data set that a configuration names.

    Args:
        config: of the run.
        folder: the run's; what was decided about its data when it began holds. None: it has none.
    """
    offered = {"decisions": read_decisions(folder), "progress": LongWork("looking at").update}
    data = construct(config.data, "data", common=COMMON["data"], **offered)
    if isinstance(data, dict):
        data = from_dict(data, config.data.workers)
    if not isinstance(data, Arrays | Folders | TorchDatasets):
        raise UserError(
            "data: the function must return a dict of Datasets (train, test and, if you like, validation), a dict of"
            " arrays (x_train, y_train, x_test, y_test), or trainopt.data.Arrays"
        )
    if data.num_classes is not None and data.num_classes < 2 and not isinstance(data, NoData):
        raise UserError("data: all images are of one class; two or more are needed")
    if isinstance(data, NoData):
        return data
    check_image_keys(config, data)
    check_targets(config, data)
    if isinstance(data, Folders):
        check_folders(config, data)
        return data
    if isinstance(data, TorchDatasets):
        check_datasets(config, data)
        return data
    channels, pad = config.data.channels, config.data.pad
    try:
        data = data if channels is None else data.with_channels(channels)
    except DataError as error:
        raise UserError(f"data.{error}") from error
    return data.padded(pad) if pad else data


def from_dict(contents: dict[str, Any], workers: int | None) -> Arrays | TorchDatasets:
    """Returns the data set that a function of the user returns as a dict of arrays or of Datasets."""
    is_arrays = "x_train" in contents
    unknown = [str(name) for name in contents if name not in (*ARRAY_NAMES, "num_classes")] if is_arrays else []
    missing = [name for name in ARRAY_NAMES if name not in contents] if is_arrays else []
    if unknown or missing:
        raise UserError(
            f"data: the function returns {', '.join(map(str, contents))}; a dict of arrays has {', '.join(ARRAY_NAMES)}"
            " and, if you like, num_classes"
        )
    try:
        if is_arrays:
            return Arrays(**contents, where="data")
        return torch_datasets(contents, workers, LongWork("reading the targets of").update)
    except DataError as error:
        raise UserError(one_line(error)) from error


def check_datasets(config: DictConfig, data: TorchDatasets) -> None:
    """Refuses keys that are for images in memory, and two validation sets."""
    for key, default in (("channels", None), ("pad", 0)):
        if config.data[key] != default:
            raise UserError(f"data.{key}={config.data[key]}: is for images in memory; a Dataset has transforms itself")
    share = config.data.validation
    if "validation" in data.parts and share:
        raise UserError(f"data.validation={share}: there is a Dataset `validation` already; leave one of them out")


def check_folders(config: DictConfig, data: Folders) -> None:
    """Refuses folders of images without a test set and a validation set, and keys that are for images in memory."""
    channels, pad = config.data.channels, config.data.pad
    if data.test is None and not config.data.validation:
        raise UserError(missing_test_set(data.train.root))
    if channels is not None or pad:
        key = f"channels={channels}" if pad == 0 else f"pad={pad}"
        raise UserError(f"data.{key}: is for images in memory; those in folders are read in colour, as they are")


def read_decisions(folder: Path | None) -> dict[str, Any] | None:
    """Returns what a run that has a checkpoint decided about its data when it began; None: it begins now."""
    if folder is None or not any((folder / "checkpoints").glob("*.pt")):
        return None
    return read_json(folder / "environment.json").get("data")


def build_sets(
    config: DictConfig,
    data: AnyData,
    size: int | None,
    device: torch.device,
    notes: list[str],
    train_images: int = 0,
    normalised: bool = True,
) -> tuple[Source, dict[str, Source]]:
    """Returns the training set, and the sets to evaluate on by kind of row.

    Images are normalised by the statistics of all training images, also where a bootstrap sample leaves some out: a
    test image is then the same input for every member of an ensemble.

    Args:
        config: of the run.
        data: all images.
        size: side in pixels to which they are resized; None: they are not.
        device: where batches go.
        notes: printed at the start of the run; a note is added.
        train_images: as in `build`.
        normalised: whether images are normalised where the configuration does not say how.
    """
    options = config.data
    strata = strata_of(data, "train")
    assert strata is not None
    own_validation = strata_of(data, "validation") if isinstance(data, TorchDatasets) else None
    try:
        train, validation = split(strata, options.validation, options.limit)
    except DataError as error:
        raise UserError(str(error)) from error
    shared: dict[str, Any] = {"size": size, "device": device, **statistics(options, data, train, normalised)}

    def make(part: str, indices: np.ndarray, augmentation: Augmentation | None = None) -> Source:
        return make_source(config, data, part, indices, augmentation, **shared)

    augmentation = build_augmentation(config)
    if data.num_classes is not None:
        notes += missing_classes(strata[train], data, data.num_classes)
    sets = {"validation": make("train", validation)} if len(validation) else {}
    if sets and isinstance(data, TorchDatasets) and data.is_random:
        notes.append("validation samples have the training set's random transforms; a Dataset `validation` has its own")
    if own_validation is not None:
        sets["validation"] = make("validation", split(own_validation, 0.0, options.limit)[0])
    if train_images:
        chosen = train[class_balanced(strata[train], train_images)]
        sets["train"] = make("train", np.random.default_rng(0).permutation(chosen))  # classes mixed in each batch
    try:
        if options.bootstrap:
            sample = bootstrap(len(train), config.seed)
            notes.append(f"{len(np.unique(sample)):,} of {len(train):,} training images are in the bootstrap sample")
            train = train[sample]
        training_set = make("train", train, augmentation)
        notes += workers_note(config, data, training_set)
    except ValueError as error:
        raise UserError(one_line(error)) from error
    test_strata = strata_of(data, "test")
    if test_strata is None:
        notes.append("there is no folder of test images: what is said of the test set is of the validation set")
        sets["test"] = sets["validation"]
    else:
        sets["test"] = make("test", split(test_strata, 0.0, options.limit)[0])
    for name, one in read_evaluation_sets(config, data).items():
        strata = strata_of(one, "test")
        assert strata is not None
        sets[name] = make_source(config, one, "test", split(strata, 0.0, options.limit)[0], **shared)
    return training_set, sets


def workers_note(config: DictConfig, data: AnyData, training_set: Source) -> list[str]:
    """Returns a note on processes that transform images in memory; UserError where there are none, but asked for."""
    if isinstance(training_set, TransformedInMemory):
        return [f"{training_set.workers} processes transform the images"] * (training_set.workers > 0)
    workers = config.data.workers
    if isinstance(data, Arrays) and not isinstance(data, NoData) and workers is not None:
        raise UserError(
            f"data.workers={workers}: the data is in memory, and nothing transforms one image at a time; leave it out"
        )
    return []


def build_augmentation(config: DictConfig) -> Augmentation:
    """Builds the augmentation of training images, with the transforms that it names."""
    node = config.augmentation
    is_ours = "transforms" in signature(find(node, "augmentation")).parameters  # otherwise the key is unknown
    parts = node.get("transforms", []) if is_ours else []
    node = OmegaConf.masked_copy(node, [key for key in node if key != "transforms" or not is_ours])
    transforms = [construct(part, f"augmentation.transforms[{index}]") for index, part in enumerate(parts)]
    return construct(node, "augmentation", transforms=transforms)


def make_source(
    config: DictConfig,
    data: AnyData,
    part: str,
    indices: np.ndarray,
    augmentation: Augmentation | None = None,
    **options: Any,
) -> Source:
    """Returns some samples of a data set as batches.

    Args:
        config: of the run.
        data: all samples.
        part: `train` or `test`.
        indices: of the samples in this part.
        augmentation: of training images; None: there is none.
        **options: where and how, as of the sources.
    """
    if isinstance(data, Folders):
        del options["size"]
        files = getattr(data, part)
        formats = {"channels_last": config.channels_last, "seed": config.seed}
        return FolderSource(data, files, indices, augmentation=augmentation, **formats, **options)
    if isinstance(data, TorchDatasets):
        layout = {"channels_last": config.channels_last}
        return DatasetSource(data, part, indices, augmentation=augmentation, **layout, **options)
    inputs, targets = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")[indices]
    if not np.array_equal(indices, np.arange(len(inputs))):  # otherwise no copy is needed
        inputs = inputs[indices]
    if not data.is_images:
        return Tensors(torch.from_numpy(inputs), torch.from_numpy(targets), options["device"])
    options |= {"num_classes": data.num_classes or 0, "channels_last": config.channels_last}
    if augmentation is not None and augmentation.image_transforms(options["mean"]):
        workers = config.data.workers
        return TransformedInMemory(inputs, targets, augmentation=augmentation, workers=workers, **options)
    return InMemory(inputs, targets, augmentation=augmentation, **options)


def strata_of(data: AnyData, part: str) -> np.ndarray | None:
    """Returns an integer for each sample of a part: its class, by which splits are balanced; 0 where there are none.

    None is returned where there is no such part.
    """
    if isinstance(data, Folders):
        files = getattr(data, part)
        return None if files is None else np.asarray(files.targets)
    if isinstance(data, TorchDatasets):
        return data.strata(part) if part in data.parts else None
    targets = getattr(data, f"y_{part}")
    return targets if data.num_classes is not None else np.zeros(len(targets), dtype=np.int64)


def missing_classes(labels: np.ndarray, data: AnyData, num_classes: int) -> list[str]:
    """Returns a note that names the classes without training images, if there are any.

    Args:
        labels: of the training images.
        data: knows the names of classes in folders.
        num_classes: number of classes.
    """
    missing = np.setdiff1d(np.arange(num_classes), labels)
    if not len(missing):
        return []
    names = data.train.classes if isinstance(data, Folders) else range(num_classes)
    text = listed([str(names[label]) for label in missing])
    return [f"{len(missing):,} of the {num_classes:,} classes have no training images: {text}"]


def statistics(
    options: DictConfig, data: AnyData, train: np.ndarray, normalised: bool = True
) -> dict[str, list[float]]:
    """Returns mean and standard deviation per channel, those of uint8 images on the [0, 1] scale.

    Args:
        options: `mean` and `std` are taken from them, or computed where they are null.
        data: all images; other inputs are not normalised.
        train: indices of the training images that they are computed from.
        normalised: False: those that are null are 0 and 1, which leave images as they are.
    """
    if not data.is_images:
        return {}
    channels = data.input_shape[0]
    results = {}
    for name in ("mean", "std"):
        values = options[name]
        if values is None and (isinstance(data, TorchDatasets) or not normalised):  # a Dataset has transforms itself
            values = [float(name == "std")] * channels
        elif values is None:
            if not isinstance(data, Arrays):
                raise UserError(f"data.{name} is missing: folders of images need it, one number a channel")
            white = np.float32(255 if data.x_train.dtype == np.uint8 else 1)
            pixels = data.x_train[train].reshape(-1, channels) / white
            values = getattr(pixels, name)(axis=0, dtype=np.float64)
            values = np.where(values > 0, values, 1.0) if name == "std" else values
        elif len(values) == 1:
            values = [values[0]] * channels
        if len(values) != channels:
            raise UserError(f"data.{name}={list(values)}: must have {channels} numbers, one a channel, or one for all")
        results[name] = [float(x) for x in values]
    return results
