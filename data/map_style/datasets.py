"""Data sets that are map-style torch Datasets: their form, their classes, and how they are read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

from ..datasets.checks import count_classes
from ..datasets.hugging_face import are_splits, from_splits
from ..errors import DataError
from ..samples.loading import Progress, collated, load, worker_count
from .samples import Form, Samples, as_inputs, as_targets, form_of

PARTS = ("train", "test", "validation")
LOOKED_AT = 16  # items of each part that are read at the start
TARGETS_BATCH = 256  # items, where all are read for their targets

Sample = tuple[Tensor, Tensor]  # input and target


@dataclass(eq=False)
class TorchDatasets:
    """Map-style Datasets of (input, target), and what was seen of their samples.

    Args:
        parts: by `train`, `test` and, if there is one, `validation`.
        form: of the samples.
        labels: the classes of each part, (N,) int64; None: targets are no classes.
        num_classes: as of `DataSet`.
        workers: number of processes that read.
        tokens: number of tokens, where inputs are sequences of these and the user says how many there are.
        is_random: whether items of the training set differ from one read to the next.
        notes: what a user may not expect, a line each.
    """

    parts: dict[str, Any]
    form: Form
    labels: dict[str, np.ndarray] | None
    num_classes: int | None
    workers: int
    tokens: int | None = None
    is_random: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def is_images(self) -> bool:
        """Whether inputs are images."""
        return self.form.is_images

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input; (C, H, W) of images."""
        return self.form.input_shape

    @property
    def input_dtype(self) -> torch.dtype:
        """float32, or int64 where inputs are integers."""
        return torch.float32 if self.form.input_dtype == torch.uint8 else self.form.input_dtype

    @property
    def num_tokens(self) -> int | None:
        """As the user says, or the largest integer of inputs in memory plus 1; None: not known."""
        if self.tokens is not None:
            return self.tokens
        wholes = [self.tensors(part) for part in self.parts]
        if self.input_dtype != torch.int64 or any(whole is None for whole in wholes):
            return None
        inputs = torch.cat([whole[0].flatten() for whole in wholes if whole is not None])
        return int(inputs.max()) + 1 if inputs.min() >= 0 else None

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target; () of a class."""
        return self.form.target_shape

    @property
    def num_outputs(self) -> int:
        """Number of classes, or of the elements of a target."""
        return self.num_classes or prod(self.target_shape)

    def tensors(self, part: str) -> Sample | None:
        """Returns all inputs and targets of a part that is in memory; None of another."""
        return tensors_of(self.parts[part], self.labels is not None)

    def strata(self, part: str) -> np.ndarray:
        """Returns the class of each sample of a part; 0 where there are no classes."""
        return np.zeros(len(self.parts[part]), dtype=np.int64) if self.labels is None else self.labels[part]


def torch_datasets(
    contents: Mapping[str, Any], workers: int | None = None, progress: Progress = lambda done, total: None
) -> TorchDatasets:
    """Looks at the Datasets that a function of the user returns.

    Args:
        contents: Datasets by `train`, `test` and, if there is one, `validation`, or splits of Hugging Face's library as
            of `from_splits`. It may have `num_classes`: None where integer targets are real numbers, 0 where classes
            are counted; and `num_tokens`.
        workers: number of processes that read; None: several where a pass over the training set is long.
        progress: is called with how many samples of how many were looked at, where all targets have to be read.

    Raises:
        DataError: something is no map-style Dataset, or a sample that is looked at is no pair of numbers.
    """
    if are_splits(contents):
        contents = from_splits(contents, "data")
    num_classes = contents.get("num_classes", 0)
    parts = {name: contents[name] for name in PARTS if contents.get(name) is not None}
    unknown = [name for name in contents if name not in (*PARTS, "num_classes", "num_tokens")]
    if unknown or "train" not in parts or "test" not in parts:
        names = ", ".join(map(str, contents))
        raise DataError(f"data: the function returns {names}, must return train, test and, if you like, validation")
    for name, dataset in parts.items():
        _check_is_map_style(dataset, name)
    form = form_of(_read(parts["train"], "train", 0, None, num_classes is not None))
    looks = {name: _look_at(dataset, name, form, num_classes is not None) for name, dataset in parts.items()}
    for name, dataset in parts.items():
        whole = tensors_of(dataset, num_classes is not None)
        if whole is not None and not all(values.isfinite().all() for values in whole):
            raise DataError(f"data: the {name} set holds values that are nan or infinite, must be finite")
    seconds = 0 if is_in_memory(parts["train"]) else looks["train"].seconds * len(parts["train"])
    count = worker_count(workers, seconds)
    notes = [f"up to {count} processes read the data (data.workers)"] * (count > 0)
    unseeded = [name for name, look in looks.items() if not look.is_reproducible]
    if unseeded:
        notes.append(
            f"items of {', '.join(unseeded)} differ with the same seeds: only random numbers of torch, NumPy's"
            " global generator and Python's random are seeded, so this run cannot be repeated"
        )
    about: dict[str, Any] = {
        "workers": count,
        "tokens": contents.get("num_tokens"),
        "is_random": looks["train"].is_random,
        "notes": notes,
    }
    if form.target_shape or form.target_dtype != torch.int64:
        if num_classes:
            raise DataError(f"data: num_classes={num_classes}: targets are no classes; leave it out")
        return TorchDatasets(parts, form, None, None, **about)
    labels = {name: _labels(dataset, name, form, count, progress) for name, dataset in parts.items()}
    num_classes = num_classes or count_classes(labels["train"], "data")
    for name, values in labels.items():
        if values.min() < 0 or values.max() >= num_classes:
            span = f"{values.min()} to {values.max()}"
            raise DataError(f"data: the {name} set holds labels {span}, must be 0 to {num_classes - 1}")
    return TorchDatasets(parts, form, labels, num_classes, **about)


def _check_is_map_style(dataset: Any, name: str) -> None:
    """Raises DataError where something has no items by index, or none at all."""
    if isinstance(dataset, DataLoader):
        raise DataError(f"data: {name} is a DataLoader; return its dataset, batches are made by batching")
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise DataError(
            f"data: {name}, a {type(dataset).__name__}, has no items by index, which a reproducible order needs;"
            " must be a map-style Dataset with __getitem__ and __len__"
        )
    if len(dataset) == 0:
        raise DataError(f"data: {name} has no items")


def _read(dataset: Any, name: str, place: int, form: Form | None, are_classes: bool, epoch: int = 0) -> Sample:
    """Returns the sample of a Dataset at a place; DataError where it cannot be read, or has another form."""
    sample = Samples(dataset, name, np.array([place]), form, are_classes).__getitems__([(0, epoch, 0)])[0]
    if isinstance(sample, DataError):
        raise sample
    assert isinstance(sample, tuple)
    return sample


class Look(NamedTuple):
    """What some items of a Dataset showed."""

    seconds: float  # that the median item takes to be read
    is_random: bool  # whether an item differs from epoch to epoch
    is_reproducible: bool  # whether it is the same with the same seeds


def _look_at(dataset: Any, name: str, form: Form, are_classes: bool) -> Look:
    """Reads some items of a Dataset thrice; DataError where one cannot be read, or has another form."""
    seconds, is_random, is_reproducible = [], False, True
    for place in looked_at(len(dataset)):
        began = perf_counter()
        sample = _read(dataset, name, place, form, are_classes)
        seconds.append(perf_counter() - began)
        is_random |= _differ(sample, _read(dataset, name, place, form, are_classes, epoch=1))
        is_reproducible &= not _differ(sample, _read(dataset, name, place, form, are_classes))
    return Look(float(np.median(seconds)), is_random, is_reproducible)


def _differ(one: Sample, two: Sample) -> bool:
    """Returns whether two samples are different; nan differs from nothing."""
    return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one, two, strict=True))


def looked_at(count: int) -> list[int]:
    """Returns the places of some items of so many, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, LOOKED_AT).astype(int)).tolist()


def _labels(dataset: Any, name: str, form: Form, workers: int, progress: Progress) -> np.ndarray:
    """Returns the class of each item: what the Dataset lists where some items confirm it, else from all items."""
    listed = listed_labels(dataset)
    places = looked_at(len(dataset)) if listed is not None and len(listed) == len(dataset) else []
    if places and all(int(_read(dataset, name, i, form, True)[1]) == listed[i] for i in places):  # type: ignore[index]
        return listed  # type: ignore[return-value]
    count = len(dataset)
    samples = Samples(dataset, name, np.arange(count), form, True, targets_alone=True)
    keys = [[(0, 0, i) for i in range(s, min(s + TARGETS_BATCH, count))] for s in range(0, count, TARGETS_BATCH)]
    parts: list[np.ndarray] = []
    for batch in load(samples, workers, batch_sampler=keys, collate_fn=collated):
        if isinstance(batch, DataError):
            raise batch
        parts.append(batch.numpy())
        progress(min(len(parts) * TARGETS_BATCH, count), count)
    return np.concatenate(parts)


def listed_labels(dataset: Any) -> np.ndarray | None:
    """Returns the labels (N,) that a Dataset lists without reading its items; None: it does not.

    torchvision's have `targets` or `labels`. They may be others than those of the items, where a transform changes
    these.
    """
    if isinstance(dataset, Subset):
        labels = listed_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices, dtype=np.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [listed_labels(part) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    if type(dataset) is TensorDataset:
        values: Any = dataset.tensors[-1]
    else:
        values = next((getattr(dataset, key) for key in ("targets", "labels") if hasattr(dataset, key)), None)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors of a GPU
        return None
    return array.astype(np.int64) if array.ndim == 1 and array.dtype.kind in "biu" else None


def is_in_memory(dataset: Any) -> bool:
    """Returns whether a Dataset is two tensors, or a part of these: no Dataset with code of its own."""
    if type(dataset) is Subset:
        return is_in_memory(dataset.dataset)
    return type(dataset) is TensorDataset and len(dataset.tensors) == 2


def tensors_of(dataset: Any, are_classes: bool) -> Sample | None:
    """Returns all inputs and targets of a Dataset in memory, as its samples have them; None of others."""
    if not is_in_memory(dataset):
        return None
    if isinstance(dataset, Subset):
        inputs, targets = tensors_of(dataset.dataset, are_classes)  # type: ignore[misc]
        indices = torch.as_tensor(np.asarray(dataset.indices, dtype=np.int64))
        return inputs[indices], targets[indices]
    inputs, targets = (values.detach().cpu() for values in dataset.tensors)
    return as_inputs(inputs, batched=True), as_targets(targets, are_classes, batched=True)
