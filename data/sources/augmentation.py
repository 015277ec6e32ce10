"""Augmentation of training images: flips, crops, Cutout and mixup, as functions of (seed, epoch, index)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

FILLS = ("black", "mean")
MIXUP_STREAM = 1  # keeps the numbers that mixup draws apart from those of order and augmentation


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; by default not at all.

    Args:
        flip: probability of a horizontal flip.
        crop_padding: pixels added on every side before a crop of the image's size at a uniformly random place; for
            images in memory.
        crop_probability: of a crop at all. With 1 it is the pad-and-crop of He et al. 2016, section 4.2; with 0.5
            the translation of Mandatelli 2018, section 2.4.
        fill: colour of the added pixels: `black`, zero before normalising, or `mean`, zero after it.
        cutout: side in pixels of the square that is set to zero after normalising (DeVries and Taylor 2017,
            arXiv 1708.04552); 0: none. See `Cutout`.
        mixup: alpha of Beta(alpha, alpha), which the weight of an image in its mixture with another is drawn from
            (Zhang et al. 2018, arXiv 1710.09412); 0: images are not mixed. See `mix_up`.

    Raises:
        ValueError: an argument is out of its range.
    """

    flip: float = 0.0
    crop_padding: int = 0
    crop_probability: float = 1.0
    fill: str = "black"
    cutout: int = 0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, right, rule in (
            ("flip", 0 <= self.flip <= 1, "in [0, 1]"),
            ("crop_padding", self.crop_padding >= 0, ">= 0"),
            ("crop_probability", 0 <= self.crop_probability <= 1, "in [0, 1]"),
            ("fill", self.fill in FILLS, f"one of {', '.join(FILLS)}"),
            ("cutout", self.cutout >= 0, ">= 0"),
            ("mixup", self.mixup >= 0, ">= 0"),
        ):
            if not right:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")

    @property
    def is_random(self) -> bool:
        """Whether an image is another one from epoch to epoch."""
        crops = self.crop_padding > 0 and self.crop_probability > 0
        return self.flip > 0 or crops or self.cutout > 0 or self.mixup > 0

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError where the network's inputs are too small for the square of Cutout."""
        if self.cutout > min(height, width):
            raise ValueError(
                f"augmentation.cutout={self.cutout}: images are {height}x{width} pixels;"
                f" give at most {min(height, width)}"
            )


class CutoutAndMixup:
    """Cutout and mixup of an epoch's batches, which are normalised and of their final size.

    Args:
        options: what is to be done.
        seed, epoch: what the numbers that mixup draws are functions of, beside where a batch starts.
        generator: of the epoch; the squares' centres are drawn from it, one for every place in the epoch's order.
        count: images an epoch.
        size: (H, W) of the images.
        num_classes: length of the rows of mixed targets.
        device: where batches are.
    """

    def __init__(
        self,
        options: Augmentation,
        seed: int,
        epoch: int,
        generator: torch.Generator,
        count: int,
        size: tuple[int, int],
        num_classes: int,
        device: torch.device,
    ):
        self.options, self.seed, self.epoch, self.num_classes = options, seed, epoch, num_classes
        if options.cutout:
            drawn = [torch.randint(side, (count,), generator=generator) for side in size]
            self.centres = torch.stack(drawn).to(device)
            self.cutout = Cutout(options.cutout, size, device)

    def __call__(self, images: Tensor, labels: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Returns the images, which may be changed in place, and targets of the batch that starts there."""
        options, count = self.options, len(labels)
        if options.cutout:
            self.cutout(images, self.centres[:, start : start + count])
        if options.mixup:
            weight, partner = mixture(options.mixup, self.seed, self.epoch, start, count)
            return mix_up(images, labels, self.num_classes, weight, partner.to(labels.device))
        return images, labels


class Rectangles:
    """Planes (B, 1, H, W) that are 1 in a rectangle and 0 around it, looked up instead of computed for each batch.

    >>> Rectangles(corners=(range(-1, 2), range(4)), inside=(2, 2), size=(3, 4))(torch.tensor([[0], [2]])).tolist()
    [[[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]

    Args:
        corners: the rows and the columns where rectangles may begin; outside of a plane they are cut off.
        inside: height and width of the rectangles.
        size: (H, W).
        device: where the planes are.
    """

    def __init__(
        self,
        corners: tuple[range, range],
        inside: tuple[int, int],
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ):
        self._edges = []  # for every corner, the rows (or columns) of the plane that the rectangle covers
        for first, length, side in zip(corners, inside, size, strict=True):
            place = torch.arange(side) - torch.tensor(first)[:, None]
            self._edges.append(((place >= 0) & (place < length)).float().to(device))

    def __call__(self, choice: Tensor) -> Tensor:
        """Returns the planes of rectangles that begin at the corners of these numbers, (2, B)."""
        rows, columns = (edge.index_select(0, c) for edge, c in zip(self._edges, choice, strict=True))
        return (rows[:, :, None] * columns[:, None, :])[:, None]


class Cutout:
    """Sets a square of each image to zero; what of it lies outside of the image is cut off.

    The square's pixels are (y - side // 2 + i, x - side // 2 + j) for 0 <= i, j < side, with (y, x) its centre
    (DeVries and Taylor 2017, section 3.2: uniform over the image's pixels, in every image, in all channels).
    torchvision has no Cutout: its RandomErasing keeps the rectangle inside, and erases one image at a time.

    >>> image = torch.ones(1, 1, 3, 4)
    >>> Cutout(side=2, size=(3, 4))(image, torch.tensor([[0], [2]]))
    >>> image[0, 0].int().tolist()
    [[1, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1]]

    Args:
        side: of the square, in pixels.
        size: (H, W) of the images.
        device: where the images are.
    """

    def __init__(self, side: int, size: tuple[int, int], device: torch.device | str = "cpu"):
        height, width = size
        first = -(side // 2)
        corners = range(first, first + height), range(first, first + width)
        self._squares = Rectangles(corners, (side, side), size, device)

    def __call__(self, images: Tensor, centres: Tensor) -> None:
        """Changes images (B, C, H, W), which are normalised, in place; centres are rows and columns (2, B)."""
        images.mul_(1 - self._squares(centres))


def mixture(alpha: float, seed: int, epoch: int, start: int, count: int) -> tuple[float, Tensor]:
    """Returns how a batch is mixed: the weight of each image in its mixture, and who its partner is (count,).

    Both are functions of (seed, epoch, start). The weight is drawn from Beta(alpha, alpha), once a batch; partners
    are a permutation of the batch, as in the authors' program.
    """
    words = np.random.SeedSequence([seed, epoch, start], spawn_key=(MIXUP_STREAM,))
    generator = np.random.default_rng(words)
    return float(generator.beta(alpha, alpha)), torch.from_numpy(generator.permutation(count))


def mix_up(images: Tensor, labels: Tensor, num_classes: int, weight: float, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight x + (1 - weight) x[partner], of images (in place) and of targets as probabilities.

    (Zhang et al. 2018, eq. 1.) torchvision's MixUp draws from torch's global generator, which would tie a run's
    mixtures to what else draws from it, and takes twice as long; for equal weights and partners its result is
    the same.

    >>> images, targets = mix_up(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1]), 2, 0.75, torch.tensor([1, 0]))
    >>> images.tolist(), targets.tolist()
    ([[1.25], [1.75]], [[0.75, 0.25], [0.25, 0.75]])

    Args:
        images: (B, ...).
        labels: (B,) int64.
        num_classes: length of a row of targets.
        weight: of an image in its own mixture, in [0, 1].
        partner: a permutation of the batch, (B,).
    """
    targets = one_hot(labels, num_classes).to(images.dtype)
    for part in (images, targets):
        part.lerp_(part.index_select(0, partner), 1 - weight)
    return images, targets
