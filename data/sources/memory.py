"""Images kept in memory as uint8, augmented and normalised a whole batch at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..digests import digest_of
from .augmentation import Augmentation, CutoutAndMixup, Rectangles
from .order import epoch_generator
from .windows import Windows


class InMemory:
    """A set of images that gives batches of normalised float32 images (B, C, H, W).

    Shifted and mirrored images are read as windows of a zero-padded (and, for mirroring, doubled) copy of the
    set: one gather of rows of W bytes, whatever the shift. That costs memory, 2 (H + 2s)(W + 2s) / HW of the
    set's own, and makes augmentation cheaper than the arithmetic that normalises.

    Args:
        images: (N, H, W, C) uint8.
        labels: (N,) int64.
        mean, std: per channel, on the [0, 1] scale.
        size: side in pixels to which images are resized (bilinear, antialiased); None: as they are.
        augmentation: of the batches of an epoch; None: none.
        num_classes: length of the rows of mixed targets; None: as many classes as the labels name.
        device: where batches go; on a GPU the set itself lies there where it fits into half of the free memory.
        channels_last: give batches in NHWC memory order.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
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
        self.num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).float().view(-1, 1, 1).to(self.device)
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.offset = offset.float().view(-1, 1, 1).to(self.device)

        self.shape = (images.shape[3], images.shape[1], images.shape[2])
        self.input_size = self.shape[1:] if size is None else (size, size)
        augmentation.check_size(*self.input_size)
        shift = augmentation.crop_padding
        stored = torch.from_numpy(_copied(images, shift, mirrored=augmentation.flip > 0))
        home = self.device if fits(stored, self.device) else torch.device("cpu")
        self.stored = stored.to(home)
        self.labels = torch.from_numpy(labels).to(home)
        if shift:
            self._windows = Windows(self.stored, self.shape[1:])
            corners = range(shift, -shift - 1, -1)  # of the image in its window, for each step of the window
            self._insides = Rectangles((corners, corners), self.shape[1:], self.shape[1:], self.device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_random(self) -> bool:
        """Whether an image is another one from epoch to epoch."""
        return self.augmentation.is_random

    def digest(self) -> str:
        """Returns what tells the inputs of `ordered` from others: images, their order, size and normalisation."""
        return digest_of(self.stored, self.scale, self.offset, self.size)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (images, labels) of an epoch's order that `spans` name as (start, stop).

        Order and augmentation are functions of (seed, epoch, index). With mixup targets are probabilities,
        (B, num_classes).
        """
        count, generator, options = len(self), epoch_generator(seed, epoch), self.augmentation
        order = torch.randperm(count, generator=generator)
        source = order  # which stored image is read: the mirrored ones lie `count` further
        if options.flip > 0:
            source = order + count * (torch.rand(count, generator=generator) < options.flip)
        if options.crop_padding:
            steps = self._steps(generator)
            source, steps = self._windows.starts(source, steps), steps.to(self.device)
        cutout_and_mixup = CutoutAndMixup(
            options, seed, epoch, generator, count, self.input_size, self.num_classes, self.device
        )
        order, source = order.to(self.labels.device), source.to(self.labels.device)
        for start, stop in spans:
            inside = None
            if options.crop_padding:
                pixels = self._windows.read(source[start:stop])
                if options.fill == "mean":
                    inside = self._insides(steps[:, start:stop])
            else:
                pixels = self.stored.index_select(0, source[start:stop])
            labels = self.labels.index_select(0, order[start:stop])
            yield cutout_and_mixup(*self._finished(pixels, labels, inside), start)

    def _steps(self, generator: torch.Generator) -> Tensor:
        """Draws which windows of the padded images are read: rows and columns of their first pixels, (2, N)."""
        shift, probability = self.augmentation.crop_padding, self.augmentation.crop_probability
        steps = torch.randint(2 * shift + 1, (2, len(self)), generator=generator)
        if probability < 1:
            steps[:, torch.rand(len(self), generator=generator) >= probability] = shift
        return steps

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields every image once, in order, without augmentation."""
        _, height, width = self.shape
        s = self.augmentation.crop_padding
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            pixels = self.stored[start:stop, :, s : s + height, s : s + width]
            yield self._finished(pixels, self.labels[start:stop])

    def _finished(self, pixels: Tensor, labels: Tensor, inside: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns a batch on its device, normalised, zero where `inside` (B, 1, H, W) is, and of its final size."""
        if pixels.device != self.device:
            pixels = pixels.contiguous().pin_memory().to(self.device, non_blocking=True)
            labels = labels.pin_memory().to(self.device, non_blocking=True)
        images = pixels.to(torch.float32, memory_format=self.format).mul_(self.scale).add_(self.offset)
        if inside is not None:
            images.mul_(inside)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images, labels


def _copied(images: np.ndarray, shift: int, mirrored: bool) -> np.ndarray:
    """Returns images (N, H, W, C) as (N, C, H + 2 shift, W + 2 shift), black around, then their mirror images.

    They are written once, to where they stay: for copies on the way a large set leaves no room.
    """
    count, height, width, channels = images.shape
    shape = (count * (1 + mirrored), channels, height + 2 * shift, width + 2 * shift)
    stored = np.zeros(shape, np.uint8)
    inside = stored[:, :, shift : shift + height, shift : shift + width]
    inside[:count] = images.transpose(0, 3, 1, 2)
    if mirrored:
        inside[count:] = inside[:count, :, :, ::-1]
    return stored


def fits(stored: Tensor, device: torch.device) -> bool:
    """Returns whether a tensor takes at most half of the memory that is free on a GPU; on a CPU it always fits."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return stored.nbytes <= free // 2
