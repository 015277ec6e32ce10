"""Augmentation of training images in batches, as functions of (seed, epoch, index)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cutmix import cutmix, draw_cutmix
from .cutout import Cutout
from .devices import moved
from .erasing import RandomErasing
from .mixup import batch_generator, draw_mixup, mixup

FILLS = ("black", "mean")
CHOICE_STREAM = 4  # spawn key of the choice between mixup and CutMix


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
        mixup: alpha of Beta(alpha, alpha), the distribution of the weight of an image in its mixup with another
            (Zhang et al. 2018, arXiv 1710.09412); 0: none. See `mixup`.
        cutmix: alpha of Beta(alpha, alpha), the distribution of the area that an image keeps when it gets a box of
            another (Yun et al. 2019, arXiv 1905.04899); 0: none. See `cutmix`. Where both are given, each batch has
            one of the two with equal probability, as timm's switch_prob has it.
        random_erasing: probability that a rectangle of an image is set to zero after normalising (Zhong et al. 2020,
            arXiv 1708.04896). See `RandomErasing`.
        transforms: of one image (C, H, W) uint8 at a time, as torchvision.transforms.v2's; they come first of all, of
            folders of images after crop, flip and color jitter. See `ImageTransforms`.

    Raises:
        ValueError: an argument is out of its range.
    """

    flip: float = 0.0
    crop_padding: int = 0
    crop_probability: float = 1.0
    fill: str = "black"
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float = 0.0
    transforms: Sequence[Callable] = ()

    def __post_init__(self) -> None:
        for name, right, rule in (
            ("flip", 0 <= self.flip <= 1, "in [0, 1]"),
            ("crop_padding", self.crop_padding >= 0, ">= 0"),
            ("crop_probability", 0 <= self.crop_probability <= 1, "in [0, 1]"),
            ("fill", self.fill in FILLS, f"one of {', '.join(FILLS)}"),
            ("cutout", self.cutout >= 0, ">= 0"),
            ("mixup", self.mixup >= 0, ">= 0"),
            ("cutmix", self.cutmix >= 0, ">= 0"),
            ("random_erasing", 0 <= self.random_erasing <= 1, "in [0, 1]"),
        ):
            if not right:
                raise ValueError(f"{name}={getattr(self, name)}: must be {rule}")

    @property
    def is_random(self) -> bool:
        """Whether an image differs from epoch to epoch."""
        crops = self.crop_padding > 0 and self.crop_probability > 0
        return crops or any((self.flip, self.cutout, self.mixup, self.cutmix, self.random_erasing, self.transforms))

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with one another."""
        return bool(self.mixup or self.cutmix)

    def image_transforms(self, mean: Sequence[float]) -> list[Callable]:
        """Returns the transforms of one image at a time; none where there are only changes of whole batches.

        Args:
            mean: of the images, per channel, on the [0, 1] scale.
        """
        del mean
        return list(self.transforms)

    def check_size(self, height: int, width: int) -> None:
        """Raises ValueError where the network's inputs are too small for the square of Cutout."""
        if self.cutout > min(height, width):
            raise ValueError(
                f"augmentation.cutout={self.cutout}: images are {height}x{width} pixels;"
                f" give at most {min(height, width)}"
            )


class BatchAugmentation:
    """Augmentation of an epoch's batches after normalising and resizing: Cutout, random erasing, mixup and CutMix.

    Args:
        options: of the augmentation.
        seed, epoch: of the run; mixup and CutMix are functions of these and of where a batch starts.
        generator: of the epoch; squares and rectangles are drawn from it, one for each sample of the epoch.
        count: samples an epoch.
        size: (H, W) of the images.
        num_classes: length of the rows of targets after mixup or CutMix.
        device: of the batches.
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
        self.size = size
        if options.cutout:
            drawn = [torch.randint(side, (count,), generator=generator) for side in size]
            self.centers = torch.stack(drawn).to(device)
            self.cutout = Cutout(options.cutout, size, device)
        if options.random_erasing:
            self.erasing = RandomErasing(options.random_erasing, count, size, generator, device)

    def __call__(self, images: Tensor, labels: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Returns images, which may be changed in place, and targets of the batch that starts at `start`."""
        options, count = self.options, len(labels)
        if options.cutout:
            self.cutout(images, self.centers[:, start : start + count])
        if options.random_erasing:
            self.erasing(images, start)
        if options.cutmix and (not options.mixup or self._prefers_cutmix(start)):
            box, partner = draw_cutmix(options.cutmix, self.seed, self.epoch, start, count, self.size)
            return cutmix(images, labels, self.num_classes, box, moved(partner, labels.device))
        if options.mixup:
            weight, partner = draw_mixup(options.mixup, self.seed, self.epoch, start, count)
            return mixup(images, labels, self.num_classes, weight, moved(partner, labels.device))
        return images, labels

    def _prefers_cutmix(self, start: int) -> bool:
        """Returns whether a batch has CutMix where mixup is given too."""
        return bool(batch_generator(self.seed, self.epoch, start, CHOICE_STREAM).random() < 0.5)
