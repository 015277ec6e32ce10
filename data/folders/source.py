"""Batches of images of a folder, read and transformed by worker processes."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..digests import digest_of
from ..errors import DataError
from ..samples.loading import collated, load
from ..samples.randomness import seeded
from ..samples.transforms import ImageTransforms
from ..sources.augmentation import Augmentation, BatchAugmentation
from ..sources.order import epoch_generator
from .image_folder import Folders
from .layout import ImageFiles
from .pixels import read_image


class _Images(Dataset):
    """Transformed images by (epoch, index); random transforms are functions of (seed, epoch, index).

    The item of a file that cannot be read is the error: one that is raised in a worker process would come with the
    traceback in its text.
    """

    def __init__(self, files: ImageFiles, indices: np.ndarray, transform: Any, seed: int, white: float | None):
        self.files, self.indices, self.transform, self.seed, self.white = files, indices, transform, seed, white

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int] | DataError:
        epoch, index = key
        path, label = self.files.samples[self.indices[index]]
        try:
            image = read_image(path, self.white)
        except DataError as error:
            return error
        with seeded(self.seed, epoch, index):
            try:
                return self.transform(image), label
            except DataError as error:
                return DataError(f"{path}: {error}")


class FolderSource:
    """Images of a folder as batches (B, 3, size, size), the same for any number of workers.

    Args:
        data: the folders.
        files: those of its training or of its test images.
        indices: of the images among these.
        mean, std: per channel, on the [0, 1] scale.
        augmentation: flips, Cutout and mixup, beside random crops and color jitter; None: the deterministic transform
            of evaluations.
        seed: of the random transforms.
        device: of the batches.
        channels_last: whether batches have the NHWC memory order.

    `epoch` and `ordered` raise DataError, whose text begins with the name of the file, where one cannot be read.

    Raises:
        ValueError: the augmentation crops, its Cutout is larger than the images, or a transform cannot transform them.
    """

    def __init__(
        self,
        data: Folders,
        files: ImageFiles,
        indices: np.ndarray,
        mean: list[float],
        std: list[float],
        augmentation: Augmentation | None,
        seed: int,
        device: torch.device,
        channels_last: bool = False,
    ):
        from timm.data import create_transform
        from torchvision.transforms import v2

        is_training = augmentation is not None
        self.augmentation = augmentation = augmentation or Augmentation()
        augmentation.check_size(data.size, data.size)
        if augmentation.crop_padding:
            raise ValueError("augmentation.crop_padding: is for data sets in memory; folders of images have data.scale")
        transforms = augmentation.image_transforms(mean)
        create = partial(
            create_transform,
            data.size,
            scale=data.scale,
            ratio=data.ratio,
            hflip=augmentation.flip,
            color_jitter=data.color_jitter,
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            mean=tuple(mean),
            std=tuple(std),
        )
        of_evaluation = create(is_training=False)
        transform = create(is_training=True, separate=bool(transforms)) if is_training else of_evaluation
        crops = (*data.scale, *data.ratio) != (1, 1, 1, 1)
        if is_training and not crops:
            first = transform[0] if transforms else transform
            first.transforms[:1] = of_evaluation.transforms[:2]  # its resize and central crop
        if transforms:
            crop, jitter, normalise = transform
            of_pixels = v2.PILToTensor(), ImageTransforms(transforms, data.input_shape), v2.ToPILImage()
            transform = v2.Compose([crop, jitter, *of_pixels, normalise])
        self.images = _Images(files, indices, transform, seed, data.white)
        self._ordered = _Images(files, indices, of_evaluation, seed, data.white)
        self.is_random = is_training and (crops or augmentation.is_random or data.color_jitter > 0)
        self.targets = torch.from_numpy(np.asarray(files.targets)[indices])
        self.workers, self.device = data.workers, device
        self.mean, self.std = list(mean), list(std)
        self.crop_pct, self.interpolation = data.crop_pct, data.interpolation
        self.shape, self.num_classes = data.input_shape, data.num_classes
        self.image_size = (data.size, data.size)
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.targets)

    def digest(self) -> str:
        """Returns a digest of what the inputs of `ordered` depend on: files (names, sizes, times) and the transform."""
        images, entries = self._ordered, []
        for index in images.indices:
            path, _ = images.files.samples[index]
            stat = os.stat(path)
            entries.append((os.path.relpath(path, images.files.root), stat.st_size, stat.st_mtime_ns))
        return digest_of(str(images.transform), images.white, "on white", entries)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (images, labels) of an epoch's order that `spans` name as (start, stop).

        Order and augmentation are functions of (seed, epoch, index). With mixup targets are probabilities,
        (B, num_classes).
        """
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        augment = BatchAugmentation(
            self.augmentation, seed, epoch, generator, len(self), self.image_size, self.num_classes, self.device
        )
        spans, ahead = tee(spans)
        loaded = self._load(self.images, ([(epoch, i) for i in order[start:stop]] for start, stop in ahead))
        for (start, _), (images, labels) in zip(spans, loaded, strict=True):
            yield augment(images, labels, start)

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images in order, without augmentation: batches first, first + every and so on."""
        starts = range(first * batch_size, len(self), every * batch_size)
        keys = ([(0, i) for i in range(s, min(s + batch_size, len(self)))] for s in starts)
        return self._load(self._ordered, keys)

    def _load(self, dataset: _Images, keys: Iterable[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        loaded = load(
            dataset,
            self.workers,
            batch_sampler=keys,  # keys are (epoch, index); iterated once
            collate_fn=collated,
            pin_memory=self.device.type == "cuda",
        )
        for batch in loaded:
            if isinstance(batch, DataError):
                raise batch
            images, labels = batch
            inputs = images.to(self.device, non_blocking=True, memory_format=self.format)
            yield inputs, labels.to(self.device, non_blocking=True)
