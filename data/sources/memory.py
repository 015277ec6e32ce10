"""Images in memory, augmented and normalised a whole batch at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..digests import digest_of
from .augmentation import Augmentation, BatchAugmentation
from .crops import CropReader
from .cutout import RectangleMasks
from .devices import storage_device, to_device
from .order import epoch_generator


class InMemory:
    """A set of images that yields batches of normalised float32 images (B, C, H, W).

    Augmented images are read as crops of a copy of the set with zero padding p, followed by the flipped images: one
    gather of rows of W pixels, whatever the crop. That takes 2 (H + 2p)(W + 2p) / HW of the set's memory, and makes
    flips and crops cheaper than normalising.

    Args:
        images: (N, H, W, C), uint8 or float32.
        targets: (N, ...), of any type.
        mean, std: per channel, on the [0, 1] scale of uint8 images, or in the unit of float images.
        size: side in pixels to which images are resized (bilinear, antialiased); None: as they are.
        augmentation: of the batches of an epoch; None: none.
        num_classes: length of the rows of targets after mixup; None: the largest label, plus 1.
        device: of the batches; the set is stored on a GPU where it takes at most half of the free memory.
        channels_last: whether batches have the NHWC memory order.
    """

    def __init__(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        mean: list[float],
        std: list[float],
        size: int | None = None,
        augmentation: Augmentation | None = None,
        num_classes: int | None = None,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ):
        self.device = torch.device(device)
        self.size = size
        self.augmentation = augmentation = augmentation or Augmentation()
        self.num_classes = _count_labels(targets) if num_classes is None else num_classes
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.mean, self.std = list(mean), list(std)
        self.white = 255 if images.dtype == np.uint8 else 1
        self.scale = (1 / (self.white * torch.tensor(std, dtype=torch.float64))).float().view(-1, 1, 1).to(self.device)
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.offset = offset.float().view(-1, 1, 1).to(self.device)

        self.shape = (images.shape[3], images.shape[1], images.shape[2])
        self.input_size = self.shape[1:] if size is None else (size, size)
        augmentation.check_size(*self.input_size)
        self._padding = padding = augmentation.crop_padding
        stored = torch.from_numpy(_padded_copy(images, padding, flipped=augmentation.flip > 0))
        home = storage_device(stored, self.device)
        self.stored = stored.to(home)
        self.targets = torch.from_numpy(targets).to(home)
        if padding:
            self._crops = CropReader(self.stored, self.shape[1:])
            corners = range(padding, -padding - 1, -1)  # of the image in its crop, for each corner of the crop
            self._image_masks = RectangleMasks((corners, corners), self.shape[1:], self.shape[1:], self.device)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def is_random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        return self.augmentation.is_random

    def digest(self) -> str:
        """Returns a digest of what the inputs of `ordered` depend on: images, their order, size and normalisation."""
        return digest_of(self.stored, self.scale, self.offset, self.size)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (images, targets) of an epoch's order that `spans` name as (start, stop).

        Order and augmentation are functions of (seed, epoch, index). With mixup targets are probabilities,
        (B, num_classes).
        """
        count, generator, options = len(self), epoch_generator(seed, epoch), self.augmentation
        order = torch.randperm(count, generator=generator)
        stored = order  # indices into the stored images; a flipped one is `count` after the original
        if options.flip > 0:
            stored = order + count * (torch.rand(count, generator=generator) < options.flip)
        if options.crop_padding:
            corners = self._draw_corners(generator)
            stored, corners = self._crops.starts(stored, corners), corners.to(self.device)
        augment = BatchAugmentation(
            options, seed, epoch, generator, count, self.input_size, self.num_classes, self.device
        )
        order, stored = order.to(self.targets.device), stored.to(self.targets.device)
        for start, stop in spans:
            mask = None
            if options.crop_padding:
                pixels = self._crops.read(stored[start:stop])
                if options.fill == "mean":
                    mask = self._image_masks(corners[:, start:stop])
            else:
                pixels = self.stored.index_select(0, stored[start:stop])
            targets = self.targets.index_select(0, order[start:stop])
            yield augment(*self._normalised(pixels, targets, mask), start)

    def _draw_corners(self, generator: torch.Generator) -> Tensor:
        """Returns the corners of random crops of the padded images: rows and columns (2, N)."""
        padding, probability = self.augmentation.crop_padding, self.augmentation.crop_probability
        corners = torch.randint(2 * padding + 1, (2, len(self)), generator=generator)
        if probability < 1:
            corners[:, torch.rand(len(self), generator=generator) >= probability] = padding
        return corners

    def ordered(self, batch_size: int, first: int = 0, every: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the images in order, without augmentation: batches first, first + every and so on."""
        _, height, width = self.shape
        p = self._padding
        for start in range(first * batch_size, len(self), every * batch_size):
            stop = min(start + batch_size, len(self))
            pixels = self.stored[start:stop, :, p : p + height, p : p + width]
            yield self._normalised(pixels, self.targets[start:stop])

    def _normalised(self, pixels: Tensor, targets: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns a batch on its device, normalised, multiplied by a mask (B, 1, H, W), and resized."""
        pixels, targets = to_device(pixels, targets, self.device)
        images = pixels.to(torch.float32, memory_format=self.format, copy=True).mul_(self.scale).add_(self.offset)
        if mask is not None:
            images.mul_(mask)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images, targets


def _padded_copy(images: np.ndarray, padding: int, flipped: bool) -> np.ndarray:
    """Returns images (N, H, W, C) with zero padding as (N, C, H + 2p, W + 2p), then, if asked, the flipped ones.

    They are written once, to their final place: a large set leaves no memory for intermediate copies.
    """
    count, height, width, channels = images.shape
    shape = (count * (1 + flipped), channels, height + 2 * padding, width + 2 * padding)
    stored = np.zeros(shape, images.dtype)
    inside = stored[:, :, padding : padding + height, padding : padding + width]
    inside[:count] = images.transpose(0, 3, 1, 2)
    if flipped:
        inside[count:] = inside[:count, :, :, ::-1]
    return stored


def _count_labels(targets: np.ndarray) -> int:
    """Returns the largest label plus 1; 0 where targets are no classes."""
    return int(targets.max()) + 1 if targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer) else 0
