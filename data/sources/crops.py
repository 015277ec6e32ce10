"""Crops of images in memory, a whole batch at a time."""

import torch
from torch import Tensor


class CropReader:
    """Reads crops of H x W pixels out of larger images: one gather of rows of W pixels, wherever they begin.

    Args:
        images: (N, C, H', W'), contiguous.
        size: (H, W), at most (H', W').
    """

    def __init__(self, images: Tensor, size: tuple[int, int]):
        _, channels, padded_height, padded_width = images.shape
        height, width = size
        self.image_size, self.line = images[0].numel(), padded_width
        self._shape = (channels, height, width)
        flat = images.view(-1)
        self._runs = flat.as_strided((flat.numel() - width + 1, width), (1, 1))  # every run of `width` pixels
        # 32-bit indices where they suffice: with 64 bits a row of 32 pixels comes with 8 bytes of index
        self._index_type = torch.int32 if flat.numel() < 2**31 else torch.int64
        plane = torch.arange(channels) * (padded_height * padded_width)
        rows = (plane[:, None] + torch.arange(height) * padded_width).view(-1)
        # where the rows of a crop begin, relative to its first pixel: (C * H,)
        self._rows = rows.to(images.device, self._index_type)
        self._dtype = images.dtype
        self._buffers = self._allocate(0)

    def starts(self, images: Tensor, corners: Tensor) -> Tensor:
        """Returns the positions of the first pixels of crops, as `read` takes them.

        Args:
            images: indices (B,) of images.
            corners: rows and columns (2, B) in them.
        """
        first = images * self.image_size + corners[0] * self.line + corners[1]
        return first.to(self._rows.device, self._index_type)

    def read(self, starts: Tensor) -> Tensor:
        """Returns crops (B, C, H, W), in memory that the next call overwrites."""
        if len(starts) != len(self._buffers[0]):
            self._buffers = self._allocate(len(starts))
        rows, pixels = self._buffers
        torch.add(starts[:, None], self._rows, out=rows)
        torch.index_select(self._runs, 0, rows.view(-1), out=pixels)
        return pixels.view(len(starts), *self._shape)

    def _allocate(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns memory for the positions of the rows of `count` crops, and for their pixels."""
        rows = torch.empty((count, len(self._rows)), dtype=self._index_type, device=self._rows.device)
        return rows, torch.empty((rows.numel(), self._shape[2]), dtype=self._dtype, device=rows.device)
