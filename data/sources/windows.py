"""Windows of images in memory, a whole batch of them at a time."""

import torch
from torch import Tensor


class Windows:
    """Reads windows of H x W pixels out of larger images: one gather of rows of W bytes, wherever they begin.

    Args:
        images: (N, C, H', W') uint8, contiguous.
        size: (H, W), at most (H', W').
    """

    def __init__(self, images: Tensor, size: tuple[int, int]):
        _, channels, padded_height, padded_width = images.shape
        height, width = size
        self.image_size, self.line = images[0].numel(), padded_width
        self._shape = (channels, height, width)
        flat = images.view(-1)
        self._runs = flat.as_strided((flat.numel() - width + 1, width), (1, 1))  # every run of `width` bytes
        # 32-bit indices where they suffice: with 64 bits a row of 32 pixels comes with 8 bytes of index
        self._index_type = torch.int32 if flat.numel() < 2**31 else torch.int64
        plane = torch.arange(channels) * (padded_height * padded_width)
        rows = (plane[:, None] + torch.arange(height) * padded_width).view(-1)
        # where the rows of a window begin, counted from its first pixel: (C * H,)
        self._rows = rows.to(images.device, self._index_type)
        self._room = self._room_for(0)

    def starts(self, images: Tensor, steps: Tensor) -> Tensor:
        """Returns what `read` takes, for images by number (B,) and rows and columns of windows in them (2, B)."""
        first = images * self.image_size + steps[0] * self.line + steps[1]
        return first.to(self._rows.device, self._index_type)

    def read(self, starts: Tensor) -> Tensor:
        """Returns windows (B, C, H, W), in memory that the next call uses again."""
        if len(starts) != len(self._room[0]):
            self._room = self._room_for(len(starts))
        rows, pixels = self._room
        torch.add(starts[:, None], self._rows, out=rows)
        torch.index_select(self._runs, 0, rows.view(-1), out=pixels)
        return pixels.view(len(starts), *self._shape)

    def _room_for(self, count: int) -> tuple[Tensor, Tensor]:
        """Returns room for the starts of the rows of `count` windows, and for their pixels."""
        rows = torch.empty((count, len(self._rows)), dtype=self._index_type, device=self._rows.device)
        return rows, torch.empty((rows.numel(), self._shape[2]), dtype=torch.uint8, device=rows.device)
