"""Images kept in memory as uint8, augmented and normalised a whole batch at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .batches import epoch_generator
from .digests import digest_of


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
        flip: probability of a horizontal mirror image.
        shift: largest translation in pixels, in both directions; what comes in is black (zero before normalising).
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
        flip: float = 0.0,
        shift: int = 0,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ):
        self.device = torch.device(device)
        self.size = size
        self.flip, self.shift = flip, shift
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).float().view(-1, 1, 1).to(self.device)
        offset = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        self.offset = offset.float().view(-1, 1, 1).to(self.device)

        self.shape = (images.shape[3], images.shape[1], images.shape[2])
        stored = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        if shift:
            stored = torch.nn.functional.pad(stored, (shift, shift, shift, shift))
        if flip > 0:
            stored = torch.cat([stored, stored.flip(-1)])
        home = self.device if fits(stored, self.device) else torch.device("cpu")
        self.stored = stored.to(home)
        self.labels = torch.from_numpy(labels).to(home)
        if shift:
            width = self.shape[2]
            flat = self.stored.view(-1)
            self._rows = flat.as_strided((flat.numel() - width + 1, width), (1, 1))  # every run of `width` bytes
            # 32-bit indices where they suffice: with 64 bits a row of 32 pixels comes with 8 bytes of index
            self._index_type = torch.int32 if flat.numel() < 2**31 else torch.int64
            self._row_starts = self._starts_of_rows().to(home, self._index_type)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_random(self) -> bool:
        """Whether an image is another one from epoch to epoch."""
        return self.flip > 0 or self.shift > 0

    def digest(self) -> str:
        """Return what tells the inputs of `ordered` from others: images, their order, size and normalisation."""
        return digest_of(self.stored, self.scale, self.offset, self.size)

    def _starts_of_rows(self) -> Tensor:
        """Where the rows of a window begin in a padded image, counted from the window's first pixel: (C * H,)."""
        channels, height, _ = self.shape
        padded_height, padded_width = self.stored.shape[2:]
        plane = torch.arange(channels) * (padded_height * padded_width)
        return (plane[:, None] + torch.arange(height) * padded_width).view(-1)

    def _buffers(self, count: int) -> tuple[Tensor, Tensor]:
        """Room for the starts of the rows of `count` windows and for their pixels, used again for every batch."""
        rows = torch.empty((count, len(self._row_starts)), dtype=self._index_type, device=self.labels.device)
        return rows, torch.empty((rows.numel(), self.shape[2]), dtype=torch.uint8, device=self.labels.device)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches (images, labels) of an epoch's order that `spans` name as (start, stop).

        Order, mirroring and shifts are functions of (seed, epoch, index).
        """
        count, generator = len(self), epoch_generator(seed, epoch)
        order = torch.randperm(count, generator=generator)
        copy = order  # which stored image is read: the mirrored ones lie `count` further
        if self.flip > 0:
            copy = order + count * (torch.rand(count, generator=generator) < self.flip)
        if self.shift:
            steps = torch.randint(2 * self.shift + 1, (2, count), generator=generator)
            image_size = self.stored[0].numel()
            copy = (copy * image_size + steps[0] * self.stored.shape[3] + steps[1]).to(self._index_type)
        order, copy = order.to(self.labels.device), copy.to(self.labels.device)
        buffers: dict[int, tuple[Tensor, Tensor]] = {}
        for start, stop in spans:
            if self.shift:
                if stop - start not in buffers:
                    buffers[stop - start] = self._buffers(stop - start)
                rows, runs = buffers[stop - start]
                torch.add(copy[start:stop, None], self._row_starts, out=rows)
                torch.index_select(self._rows, 0, rows.view(-1), out=runs)
                pixels = runs.view(stop - start, *self.shape)
            else:
                pixels = self.stored.index_select(0, copy[start:stop])
            yield self._finished(pixels, self.labels.index_select(0, order[start:stop]))

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in order, without augmentation."""
        _, height, width = self.shape
        s = self.shift
        for start in range(0, len(self), batch_size):
            stop = min(start + batch_size, len(self))
            pixels = self.stored[start:stop, :, s : s + height, s : s + width]
            yield self._finished(pixels, self.labels[start:stop])

    def _finished(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.device != self.device:
            pixels = pixels.contiguous().pin_memory().to(self.device, non_blocking=True)
            labels = labels.pin_memory().to(self.device, non_blocking=True)
        images = pixels.to(torch.float32, memory_format=self.format).mul_(self.scale).add_(self.offset)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            images = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return images, labels


def fits(stored: Tensor, device: torch.device) -> bool:
    """Say whether a tensor takes at most half of the memory that is free on a GPU; on a CPU it always fits."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return stored.nbytes <= free // 2
