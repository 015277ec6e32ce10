"""Batches of samples of a torch Dataset."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..digests import digest_of
from ..errors import DataError
from ..samples.loading import collated, load
from ..sources.augmentation import Augmentation, BatchAugmentation
from ..sources.devices import moved, storage_device
from ..sources.order import epoch_generator
from .datasets import Sample, TorchDatasets, tensors_of
from .samples import Samples

DIGEST_BATCH = 256  # samples


class DatasetSource:
    """Samples of a torch Dataset as batches, the same for any number of workers.

    Each sample is read with random numbers of its own, so that the Dataset's random transforms are functions of
    (seed, epoch, index) in `epoch`, and always the same in `ordered`. Images of 8 bits become float32 on the [0, 1]
    scale. Tensors of a TensorDataset, or of a Subset of one, are read without a loop over samples, on
    a GPU from there where they take at most half of the free memory.

    Args:
        data: the Datasets.
        part: `train`, `test` or `validation`.
        indices: of the samples in this part.
        mean, std: per channel of images, on the scale of the batches; None: 0 and 1.
        size: side in pixels to which images are resized (bilinear, antialiased); None: as they are.
        augmentation: of training images, in batches; None: for evaluations.
        device: of the batches.
        channels_last: whether batches of images have the NHWC memory order.

    `epoch` and `ordered` raise DataError, which names the item, where one cannot be read or has another form.

    Raises:
        ValueError: the augmentation flips, crops or transforms single images, which a Dataset's own transforms do.
    """

    def __init__(
        self,
        data: TorchDatasets,
        part: str,
        indices: np.ndarray,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        size: int | None = None,
        augmentation: Augmentation | None = None,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ):
        self.device, self.workers = torch.device(device), data.workers
        self.form, self.num_classes, self.size = data.form, data.num_classes, size
        self.augmentation = augmentation or Augmentation()
        for key in ("flip", "crop_padding"):
            value = getattr(self.augmentation, key)
            if value:
                raise ValueError(
                    f"augmentation.{key}={value}: is for images in memory; a Dataset has transforms itself"
                )
        if self.augmentation.image_transforms([]):
            raise ValueError("augmentation: transforms of one image at a time are those that a Dataset has itself")
        self.shape = data.input_shape if size is None else (data.input_shape[0], size, size)
        self.format = torch.channels_last if channels_last and data.is_images else torch.contiguous_format
        if data.is_images:
            self.augmentation.check_size(*self.shape[1:])
            self.mean, self.std = list(mean or [0.0]), list(std or [1.0])
            self.white = 255 if data.form.input_dtype == torch.uint8 else 1
            self.normalisation = _normalisation(self.mean, self.std, self.device)
        dataset, are_classes = data.parts[part], data.labels is not None
        self.samples = Samples(dataset, part, indices, data.form, are_classes)
        tensors = tensors_of(dataset, are_classes)
        self.tensors = None if tensors is None else _stored(tensors, torch.from_numpy(indices), self.device)
        self.is_random = augmentation is not None and (tensors is None or augmentation.is_random)
        self._labels = None if data.labels is None else torch.from_numpy(data.labels[part][indices])

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def targets(self) -> Tensor:
        """Targets of all samples, (N, ...); those that are no classes are read when somebody asks."""
        if self._labels is not None:
            return self._labels
        if self.tensors is not None:
            return self.tensors[1]
        return torch.cat([targets.cpu() for _, targets in self.ordered(DIGEST_BATCH)])

    def digest(self) -> str:
        """Returns a digest of the inputs of `ordered`, which are all read."""
        return digest_of(*(digest_of(inputs) for inputs, _ in self.ordered(DIGEST_BATCH)))

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (inputs, targets) of an epoch's order that `spans` name as (start, stop).

        Order, the Dataset's transforms and augmentation are functions of (seed, epoch, index).
        """
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(self), generator=generator)
        spans, ahead = tee(spans)
        loaded = self._load((order[start:stop] for start, stop in ahead), seed, epoch)
        if not self.form.is_images:
            yield from loaded
            return
        size, classes = (self.shape[1], self.shape[2]), self.num_classes or 0
        augment = BatchAugmentation(self.augmentation, seed, epoch, generator, len(self), size, classes, self.device)
        for (start, _), (images, targets) in zip(spans, loaded, strict=True):
            yield augment(images, targets, start)

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the samples in order, without augmentation: batches first, first + every and so on."""
        return self._load(torch.arange(len(self)).split(batch_size)[first::every], 0, 0)

    def _load(self, batches: Iterable[Tensor], seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches of samples with these indices."""
        if self.tensors is not None:
            inputs, targets = self.tensors
            for indices in batches:
                chosen = moved(indices, inputs.device)
                yield self._finished(inputs.index_select(0, chosen), targets.index_select(0, chosen))
            return
        loaded = load(
            self.samples,
            self.workers,
            batch_sampler=([(seed, epoch, i) for i in indices.tolist()] for indices in batches),  # iterated once
            collate_fn=collated,
            pin_memory=self.device.type == "cuda",
        )
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            yield self._finished(*batch)

    def _finished(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Returns a batch on its device; images become float32, are normalised and resized."""
        targets = targets.to(self.device, non_blocking=True)
        if not self.form.is_images:
            return inputs.to(self.device, non_blocking=True), targets
        inputs = inputs.to(self.device, non_blocking=True, memory_format=self.format)
        images: Any = inputs.div(255) if inputs.dtype == torch.uint8 else inputs
        if self.normalisation is not None:
            mean, std = self.normalisation
            images = images.sub(mean).div_(std)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images, targets


def _stored(tensors: Sample, indices: Tensor, device: torch.device) -> Sample:
    """Returns some inputs and targets, on a GPU where they take at most half of the free memory."""
    inputs, targets = (values[indices] for values in tensors)
    home = storage_device(inputs, device)
    return inputs.to(home), targets.to(home)


def _normalisation(mean: list[float], std: list[float], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Returns mean and standard deviation per channel (C, 1, 1); None where they change nothing."""
    if set(mean) == {0.0} and set(std) == {1.0}:
        return None
    first, second = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (mean, std))
    return first, second
