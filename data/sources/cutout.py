"""Masks of rectangles, and Cutout."""

import torch
from torch import Tensor


class RectangleMasks:
    """Masks (B, 1, H, W) that are 1 in a rectangle and 0 outside, looked up instead of computed for each batch.

    >>> RectangleMasks(corners=(range(-1, 2), range(4)), sides=(2, 2), size=(3, 4))(torch.tensor([[0], [2]])).tolist()
    [[[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]

    Args:
        corners: the rows and the columns where rectangles may begin; they are clipped to the mask.
        sides: height and width of the rectangles.
        size: (H, W).
        device: of the masks.
    """

    def __init__(
        self,
        corners: tuple[range, range],
        sides: tuple[int, int],
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ):
        self._edges = []  # for every corner, the rows (or columns) of the mask that the rectangle covers
        for first, side, length in zip(corners, sides, size, strict=True):
            offset = torch.arange(length) - torch.tensor(first)[:, None]
            self._edges.append(((offset >= 0) & (offset < side)).float().to(device))

    def __call__(self, indices: Tensor) -> Tensor:
        """Returns the masks of the rectangles that begin at the corners with these indices (2, B)."""
        rows, columns = (edge.index_select(0, i) for edge, i in zip(self._edges, indices, strict=True))
        return (rows[:, :, None] * columns[:, None, :])[:, None]


class Cutout:
    """Sets a square of each image to zero; it is clipped to the image.

    The square's pixels are (y - side // 2 + i, x - side // 2 + j) for 0 <= i, j < side, with (y, x) its center
    (DeVries and Taylor 2017, section 3.2: uniform over the image's pixels, in every image, in all channels).
    torchvision has no Cutout: its RandomErasing keeps the rectangle inside, and processes one image at a time.

    >>> image = torch.ones(1, 1, 3, 4)
    >>> Cutout(side=2, size=(3, 4))(image, torch.tensor([[0], [2]]))
    >>> image[0, 0].int().tolist()
    [[1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]

    Args:
        side: of the square, in pixels.
        size: (H, W) of the images.
        device: of the images.
    """

    def __init__(self, side: int, size: tuple[int, int], device: torch.device | str = "cpu"):
        height, width = size
        first = -(side // 2)
        corners = range(first, first + height), range(first, first + width)
        self._squares = RectangleMasks(corners, (side, side), size, device)

    def __call__(self, images: Tensor, centers: Tensor) -> None:
        """Changes normalised images (B, C, H, W) in place; centers are rows and columns (2, B)."""
        images.mul_(1 - self._squares(centers))
