"""Folders of images, read and transformed by worker processes."""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..digests import digest_of
from ..errors import DataError
from ..sources.augmentation import Augmentation, BatchAugmentation
from ..sources.order import epoch_generator


@dataclass
class Folders:
    """The training and the test images of an image folder, and the arguments of their transforms."""

    train: Any  # torchvision.datasets.ImageFolder without transform
    test: Any
    size: int
    crop_pct: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    color_jitter: float
    interpolation: str
    workers: int

    @property
    def num_classes(self) -> int:
        """Number of classes: of the folders in train/."""
        return len(self.train.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the inputs."""
        return 3, self.size, self.size


def image_folder(
    path: str,
    size: int = 224,
    crop_pct: float = 0.875,
    scale: tuple[float, float] | list[float] = (0.08, 1.0),
    ratio: tuple[float, float] | list[float] = (0.75, 1.3333),
    color_jitter: float = 0.0,
    interpolation: str = "bilinear",
    workers: int = 4,
) -> Folders:
    """Finds the images below <path>/train/CLASS and <path>/val/CLASS.

    Args:
        path: the folder that holds train/ and val/.
        size: inputs are size x size pixels.
        crop_pct: evaluation uses the center of an image whose shorter side is resized to size / crop_pct.
        scale: training: smallest and largest fraction of the area of a random crop.
        ratio: training: smallest and largest ratio of width to height of a random crop.
        color_jitter: training: strength of random brightness, contrast and saturation.
        interpolation: bilinear or bicubic.
        workers: number of processes that read and transform images, at most one for each core that the run may use;
            0: the process of the run does.

    Raises:
        DataError: a folder is missing, or train/ and val/ hold different classes.
    """
    from torchvision.datasets import ImageFolder

    top = Path(path).expanduser()
    for part in ("train", "val"):
        if not (top / part).is_dir():
            raise DataError(f"{top / part}: no such folder; images must lie in {top}/{part}/CLASS/")
    try:
        train, test = ImageFolder(str(top / "train")), ImageFolder(str(top / "val"))
    except FileNotFoundError as error:
        raise DataError(f"{top}: {' '.join(str(error).split())}") from error
    if train.classes != test.classes:
        different = sorted(set(train.classes) ^ set(test.classes))[0]
        raise DataError(f"{top}: train/ and val/ must hold the same classes; {different} is in one of them only")
    lower, upper = scale
    return Folders(
        train, test, size, crop_pct, (lower, upper), (ratio[0], ratio[1]), color_jitter, interpolation, workers
    )


class _Images(Dataset):
    """Transformed images by (epoch, index); random transforms are functions of (seed, epoch, index)."""

    def __init__(self, folder: Any, indices: np.ndarray, transform: Any, seed: int):
        self.folder, self.indices, self.transform, self.seed = folder, indices, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        path, label = self.folder.samples[self.indices[index]]
        words = np.random.SeedSequence([self.seed, epoch, index]).generate_state(3)
        states = random.getstate(), np.random.get_state()
        with torch.random.fork_rng(devices=[]):
            random.seed(int(words[0]))
            np.random.seed(words[1])
            torch.default_generator.manual_seed(int(words[2]))  # torch.manual_seed would seed the GPU's too
            try:
                image = self.transform(self.folder.loader(path))
            except OSError as error:
                raise DataError(f"{path}: cannot be read as an image ({error})") from error
            finally:
                random.setstate(states[0])
                np.random.set_state(states[1])
        return image, label


def _leave_group(worker: int) -> None:
    """Puts a reading process into a group of its own: a signal to the run's group is for the run to handle."""
    del worker
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


class FolderSource:
    """Images of a folder as batches (B, 3, size, size), the same for any number of workers.

    Args:
        data: the folders.
        part: `train` or `test`.
        indices: of the images, in the list of the folder.
        mean, std: per channel, on the [0, 1] scale.
        augmentation: flips, Cutout and mixup, beside random crops and color jitter; None: the deterministic transform
            of evaluations.
        seed: of the random transforms.
        device: of the batches.
        channels_last: whether batches have the NHWC memory order.

    Raises:
        ValueError: the augmentation crops, or its Cutout is larger than the images.
    """

    def __init__(
        self,
        data: Folders,
        part: str,
        indices: np.ndarray,
        mean: list[float],
        std: list[float],
        augmentation: Augmentation | None,
        seed: int,
        device: torch.device,
        channels_last: bool = False,
    ):
        from timm.data import create_transform

        is_training = augmentation is not None
        self.augmentation = augmentation = augmentation or Augmentation()
        augmentation.check_size(data.size, data.size)
        if augmentation.crop_padding:
            raise ValueError("augmentation.crop_padding: is for data sets in memory; folders of images have data.scale")
        transform = create_transform(
            data.size,
            is_training=is_training,
            scale=data.scale,
            ratio=data.ratio,
            hflip=augmentation.flip,
            color_jitter=data.color_jitter,
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            mean=tuple(mean),
            std=tuple(std),
        )
        folder = getattr(data, part)
        self.images = _Images(folder, indices, transform, seed)
        crops = (*data.scale, *data.ratio) != (1, 1, 1, 1)
        self.is_random = is_training and (crops or augmentation.is_random or data.color_jitter > 0)
        self.labels = torch.from_numpy(np.asarray(folder.targets)[indices])
        self.workers, self.device = data.workers, device
        self.shape, self.num_classes = data.image_shape, data.num_classes
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Returns a digest of what the inputs of `ordered` depend on: files (names, sizes, times) and the transform."""
        top = Path(self.images.folder.root)
        files = [Path(self.images.folder.samples[index][0]) for index in self.images.indices]
        entries = [(str(f.relative_to(top)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        return digest_of(str(self.images.transform), entries)

    def epoch(self, seed: int, epoch: int, spans: Iterable[tuple[int, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields the batches (images, labels) of an epoch's order that `spans` name as (start, stop).

        Order and augmentation are functions of (seed, epoch, index). With mixup targets are probabilities,
        (B, num_classes).
        """
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        augment = BatchAugmentation(
            self.augmentation, seed, epoch, generator, len(self), self.shape[1:], self.num_classes, self.device
        )
        spans, ahead = tee(spans)
        loaded = self._load([(epoch, i) for i in order[start:stop]] for start, stop in ahead)
        for (start, _), (images, labels) in zip(spans, loaded, strict=True):
            yield augment(images, labels, start)

    def ordered(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields every image once, in order, without augmentation."""
        starts = range(0, len(self), batch_size)
        return self._load([(0, i) for i in range(s, min(s + batch_size, len(self)))] for s in starts)

    def _load(self, keys: Iterable[list[tuple[int, int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        from joblib import cpu_count  # beside other runs, their share of the cores

        loader: DataLoader = DataLoader(
            self.images,
            batch_sampler=keys,  # keys are (epoch, index); iterated once
            num_workers=min(self.workers, cpu_count()),
            worker_init_fn=_leave_group,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # leaves torch's global one alone
        )
        for images, labels in loader:
            inputs = images.to(self.device, non_blocking=True, memory_format=self.format)
            yield inputs, labels.to(self.device, non_blocking=True)
