"""Transforms of one image at a time, as torchvision's, with the random numbers of the sample."""

import pickle
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError, one_line
from .loading import threads
from .randomness import preserved, seed_sample

TRIALS = 4  # black images that transforms are tried on


class ImageTransforms:
    """Transforms of an image (C, H, W) uint8, one after another, which keep its shape and type.

    Args:
        transforms: as of torchvision.transforms.v2.
        shape: (C, H, W) of the images.

    Attributes:
        seconds: that an image takes, by a trial.

    Raises:
        ValueError: a transform cannot transform such an image, or worker processes cannot get it.
    """

    def __init__(self, transforms: Sequence[Callable], shape: Sequence[int]):
        self.transforms, self.shape = list(transforms), torch.Size(shape)
        for transform in self.transforms:
            try:
                pickle.dumps(transform)
            except Exception as error:
                text = f"worker processes cannot get it ({one_line(error)}); its class must be one of a module"
                raise ValueError(f"augmentation: {_name_of(transform)}: {text}") from error
        try:
            self.seconds = median(self._try_out(index) for index in range(TRIALS))
        except DataError as error:
            raise ValueError(str(error)) from error

    def _try_out(self, index: int) -> float:
        """Transforms a black image; returns the seconds that it took."""
        with preserved():
            seed_sample(0, 0, index)
            began = perf_counter()
            self(torch.zeros(self.shape, dtype=torch.uint8))
            return perf_counter() - began

    def __call__(self, image: Tensor) -> Tensor:
        """Returns an image transformed; it may be changed in place.

        Raises:
            DataError: a transform fails, or changes shape or type.
        """
        with threads(1):  # as worker processes have: sums are then the same everywhere
            for transform in self.transforms:
                try:
                    image = transform(image)
                except Exception as error:
                    text = f"cannot transform an image of 8 bits alone ({one_line(error)[:160]})"
                    raise DataError(f"augmentation: {_name_of(transform)} {text}{_right(transform)}") from error
                if not isinstance(image, Tensor):
                    text = f"returns a {type(image).__name__}, must return a tensor uint8"
                    raise DataError(f"augmentation: {_name_of(transform)} {text} {list(self.shape)}")
                if image.shape != self.shape or image.dtype != torch.uint8:
                    form = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
                    raise DataError(
                        f"augmentation: {_name_of(transform)} returns {form}, must return uint8 {list(self.shape)};"
                        " images are normalised, and resized by data.size, afterwards"
                    )
        return image.as_subclass(Tensor)


class TransformedImages(Dataset):
    """Images transformed, by (seed, epoch, index), of which the random numbers are functions.

    The item of an image that cannot be transformed is the error: one that is raised in a worker process would come with
    the traceback in its text.

    Args:
        images: (N, C, H, W) uint8, in the memory of the CPU.
        transforms: of each.
    """

    def __init__(self, images: Tensor, transforms: ImageTransforms):
        self.images, self.transforms = images, transforms

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> list[Tensor | DataError]:
        """Returns the images of a batch; torch's DataLoader prefers it to `__getitem__`."""
        with preserved():
            return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int, int]) -> Tensor | DataError:
        seed_sample(*key)
        try:
            return self.transforms(self.images[key[2]].clone())
        except DataError as error:
            return error


def _name_of(transform: object) -> str:
    return getattr(transform, "__name__", type(transform).__name__)


def _right(transform: object) -> str:
    """Returns what to give instead of a transform of batches; empty for others."""
    key = {"MixUp": "mixup", "CutMix": "cutmix"}.get(type(transform).__name__)
    return f"; augmentation.{key} does this, a batch at a time" if key else ""
