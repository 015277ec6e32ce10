"""Random erasing, a whole batch at a time."""

from math import log

import torch
from torch import Tensor

AREAS = (0.02, 0.33)  # of the rectangle, as fractions of the image's
RATIOS = (0.3, 3.3)  # its height divided by its width


class RandomErasing:
    """Sets a random rectangle of some images to zero (Zhong et al. 2020, arXiv 1708.04896, algorithm 1).

    As in torchvision's RandomErasing with its defaults, the area is uniform over 2 % to 33 % of the image's and the
    logarithm of the ratio of the sides over log 0.3 to log 3.3; the rectangle lies inside the image, uniformly. A side
    that would be longer than the image's is cut to that, where torchvision draws anew. torchvision processes one image
    at a time.

    Args:
        probability: of an image to be erased in.
        count: images an epoch.
        size: (H, W) of the images.
        generator: of the epoch; what is drawn is a function of an image's place in the epoch's order.
        device: of the images.
    """

    def __init__(
        self,
        probability: float,
        count: int,
        size: tuple[int, int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ):
        chance, area, ratio, *places = torch.rand((5, count), generator=generator)
        height, width = size
        area = (AREAS[0] + (AREAS[1] - AREAS[0]) * area) * (height * width)
        ratio = torch.exp(log(RATIOS[0]) + (log(RATIOS[1]) - log(RATIOS[0])) * ratio)
        self._edges = []  # first and last row, and column, of each image's rectangle
        for side, length, place in zip((area * ratio, area / ratio), size, places, strict=True):
            extent = side.sqrt().round().clamp(1, length) * (chance < probability)
            first = (place * (length - extent + 1)).floor()
            self._edges.append(torch.stack([first, first + extent]).to(device))
        self._positions = [torch.arange(length, device=device) for length in size]

    def __call__(self, images: Tensor, start: int) -> None:
        """Changes normalised images (B, C, H, W) in place; `start` is the place of the first in the epoch's order."""
        stop = start + len(images)
        rows, columns = (
            (positions >= edges[0, start:stop, None]) & (positions < edges[1, start:stop, None])
            for positions, edges in zip(self._positions, self._edges, strict=True)
        )
        images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)
