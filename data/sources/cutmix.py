"""CutMix of a batch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from .mixup import batch_generator

CUTMIX_STREAM = 3  # spawn key: independent of the random numbers of order, bootstrap and mixup


class Box(NamedTuple):
    """A rectangle of pixels, images[..., top:bottom, left:right]."""

    top: int
    bottom: int
    left: int
    right: int


def draw_cutmix(
    alpha: float, seed: int, epoch: int, start: int, count: int, size: tuple[int, int]
) -> tuple[Box, Tensor]:
    """Returns the box that each image of a batch gets from its partner, and the indices of the partners (count,).

    All are functions of (seed, epoch, start). With lambda drawn from Beta(alpha, alpha), the sides of the box are
    sqrt(1 - lambda) times those of the image; its center is uniform over the pixels, and the box is clipped to the
    image (Yun et al. 2019, arXiv 1905.04899, equation 2 and the authors' program). Partners are a permutation of the
    batch.

    Args:
        alpha: of the distribution.
        seed: of the run.
        epoch: number of the epoch.
        start: of the batch in the epoch's order.
        count: number of images in the batch.
        size: (H, W) of the images.
    """
    generator = batch_generator(seed, epoch, start, CUTMIX_STREAM)
    part = np.sqrt(1 - generator.beta(alpha, alpha))
    edges = []
    for length in size:
        center, half = int(generator.integers(length)), int(part * length) // 2
        edges += [max(center - half, 0), min(center + half, length)]
    return Box(*edges), torch.from_numpy(generator.permutation(count))


def cutmix(images: Tensor, labels: Tensor, num_classes: int, box: Box, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images (in place) with the box of their partners, and targets as probabilities.

    The targets are weighted by the areas (Yun et al. 2019, equation 1). torchvision's CutMix draws from torch's global
    generator, whose state depends on whatever else draws from it; for equal boxes and partners its result is the same.

    >>> images, targets = cutmix(torch.tensor([[[[1.0, 1.0]]], [[[2.0, 2.0]]]]), torch.tensor([0, 1]), 2,
    ...     Box(0, 1, 1, 2), torch.tensor([1, 0]))
    >>> images.tolist(), targets.tolist()
    ([[[[1.0, 2.0]]], [[[2.0, 1.0]]]], [[0.5, 0.5], [0.5, 0.5]])

    Args:
        images: (B, C, H, W).
        labels: (B,) int64.
        num_classes: length of a row of targets.
        box: of pixels.
        partner: a permutation of the batch, (B,).
    """
    targets = one_hot(labels, num_classes).to(images.dtype)
    area = (box.bottom - box.top) * (box.right - box.left)
    if area:
        images[..., box.top : box.bottom, box.left : box.right] = images.index_select(0, partner)[
            ..., box.top : box.bottom, box.left : box.right
        ]
        targets.lerp_(targets.index_select(0, partner), area / (images.shape[-2] * images.shape[-1]))
    return images, targets
