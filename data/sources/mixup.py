"""Mixup of a batch."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

MIXUP_STREAM = 1  # spawn key: independent of the random numbers of order and augmentation


def batch_generator(seed: int, epoch: int, start: int, stream: int) -> np.random.Generator:
    """Returns a generator of random numbers for a batch, which begins at `start` in the epoch's order.

    Args:
        seed: of the run.
        epoch: number of the epoch.
        start: of the batch.
        stream: generators of other streams are independent.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, start], spawn_key=(stream,)))


def draw_mixup(alpha: float, seed: int, epoch: int, start: int, count: int) -> tuple[float, Tensor]:
    """Returns the weight of each image in its mixup, and the index of its partner (count,).

    Both are functions of (seed, epoch, start). The weight is drawn from Beta(alpha, alpha), once a batch; partners
    are a permutation of the batch, as in the authors' program.

    Args:
        alpha: of the distribution.
        seed: of the run.
        epoch: number of the epoch.
        start: of the batch in the epoch's order.
        count: number of images in the batch.
    """
    generator = batch_generator(seed, epoch, start, MIXUP_STREAM)
    return float(generator.beta(alpha, alpha)), torch.from_numpy(generator.permutation(count))


def mixup(images: Tensor, labels: Tensor, num_classes: int, weight: float, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight x + (1 - weight) x[partner], of images (in place) and of targets as probabilities.

    (Zhang et al. 2018, eq. 1.) torchvision's MixUp draws from torch's global generator, whose state depends on
    whatever else draws from it, and takes twice as long; for equal weights and partners its result is the same.

    >>> images, targets = mixup(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]), 2, 0.75, torch.tensor([1, 0]))
    >>> images.tolist(), targets.tolist()
    ([[1.25], [1.75]], [[0.75, 0.25], [0.25, 0.75]])

    Args:
        images: (B, ...).
        labels: (B,) int64.
        num_classes: length of a row of targets.
        weight: of an image in its own mixup, in [0, 1].
        partner: a permutation of the batch, (B,).
    """
    targets = one_hot(labels, num_classes).to(images.dtype)
    for part in (images, targets):
        part.lerp_(part.index_select(0, partner), 1 - weight)
    return images, targets
