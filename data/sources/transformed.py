"""Images in memory that are transformed one at a time before what is done with whole batches."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import tee
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import DataError
from ..samples.loading import collated, load, spare_cores, threads, worker_count
from ..samples.transforms import ImageTransforms, TransformedImages
from .augmentation import Augmentation, BatchAugmentation
from .crops import CropReader
from .cutout import RectangleMasks
from .memory import InMemory
from .order import epoch_generator


class TransformedInMemory(InMemory):
    """A set of images in memory whose augmentation has transforms of one image at a time, in worker processes.

    These come first, on uint8 pixels; then, a batch at a time and as in `InMemory`, flips and crops, normalisation,
    resizing, Cutout, random erasing, and mixup or CutMix.

    Args:
        images: (N, H, W, C) uint8.
        targets, mean: as of `InMemory`.
        augmentation: with transforms.
        workers: number of processes that transform; None: several where an epoch takes them long.
        options: further ones of `InMemory`.

    Raises:
        ValueError: the images are not of 8 bits, or a transform cannot transform one.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        mean: list[float],
        std: list[float],
        augmentation: Augmentation,
        workers: int | None = None,
        **options: Any,
    ):
        if images.dtype != np.uint8:
            raise ValueError(f"augmentation: transforms are for images of 8 bits, and these are {images.dtype}")
        super().__init__(
            images, targets, mean, std, augmentation=replace(augmentation, flip=0.0, crop_padding=0), **options
        )
        self.augmentation = augmentation
        transforms = ImageTransforms(augmentation.image_transforms(mean), self.shape)
        self.samples, self._targets = TransformedImages(self.stored.cpu(), transforms), self.targets.cpu()
        self.workers = worker_count(workers, transforms.seconds * len(self))
        self._threads = spare_cores(self.workers)
        padding = augmentation.crop_padding
        corners = range(padding, -padding - 1, -1)  # of the image in its crop, for each corner of the crop
        self._image_masks = RectangleMasks((corners, corners), self.shape[1:], self.shape[1:], self.device)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (images, targets) of an epoch's order that `spans` name as (start, stop).

        Order and augmentation are functions of (seed, epoch, index), for any number of workers. With mixup targets are
        probabilities, (B, num_classes).
        """
        count, generator, options = len(self), epoch_generator(seed, epoch), self.augmentation
        order = torch.randperm(count, generator=generator)
        flips = torch.rand(count, generator=generator) < options.flip if options.flip > 0 else None
        corners = self._draw_corners(generator) if options.crop_padding else None
        last = BatchAugmentation(options, seed, epoch, generator, count, self.input_size, self.num_classes, self.device)
        spans, ahead = tee(spans)
        keys = ([(seed, epoch, i) for i in order[start:stop].tolist()] for start, stop in ahead)
        loaded = load(
            self.samples,
            self.workers,
            batch_sampler=keys,  # iterated once
            collate_fn=collated,
        )
        for (start, stop), batch in zip(spans, loaded, strict=True):
            if isinstance(batch, DataError):
                raise batch
            with threads(self._threads):  # another one would wait for a core at each of these short operations
                pixels, mask = batch, None
                if flips is not None:
                    pixels = torch.where(flips[start:stop, None, None, None], pixels.flip(-1), pixels)
                if corners is not None:
                    pixels = self._cropped(pixels, corners[:, start:stop])
                    if options.fill == "mean":
                        mask = self._image_masks(corners[:, start:stop].to(self.device))
                targets = self._targets.index_select(0, order[start:stop])
                result = last(*self._normalised(pixels, targets, mask), start)
            yield result

    def _cropped(self, pixels: Tensor, corners: Tensor) -> Tensor:
        """Returns crops of the padded images of a batch.

        Args:
            pixels: (B, C, H, W).
            corners: rows and columns (2, B) in the padded images.
        """
        padded = pad(pixels, [self.augmentation.crop_padding] * 4)
        reader = CropReader(padded, self.shape[1:])
        return reader.read(reader.starts(torch.arange(len(pixels)), corners))
