"""Images and labels as arrays, checked once when they are read."""

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError

NAMES = ("x_train", "y_train", "x_test", "y_test")


@dataclass
class Arrays:
    """A data set in memory: images (N, H, W, C) uint8 and labels (N,) int64 in [0, num_classes).

    Grey images may come as (N, H, W). Raises DataError, with `where` in front, for anything else.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    where: str
    num_classes: int = 0  # 0: as many as the training labels name

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = _checked(self, part)
            setattr(self, f"x_{part}", images)
            setattr(self, f"y_{part}", labels)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            shapes = f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            raise DataError(f"{self.where}: training and test images differ in shape, {shapes}")
        if not self.num_classes:
            self.num_classes = int(self.y_train.max()) + 1
        for part in ("train", "test"):
            labels = getattr(self, f"y_{part}")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                span = f"{labels.min()} to {labels.max()}"
                raise DataError(f"{self.where}: y_{part} holds labels {span}, must be 0 to {self.num_classes - 1}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width, channels = self.x_train.shape[1:]
        return channels, height, width

    def with_channels(self, channels: int) -> "Arrays":
        """Returns the data with so many equal channels, where images are grey; DataError where they are not."""
        there = self.image_shape[0]
        if there == channels:
            return self
        if there != 1:
            raise DataError(f"channels={channels}: images have {there} channels; only grey ones can be given more")
        x_train, x_test = (np.repeat(images, channels, axis=3) for images in (self.x_train, self.x_test))
        return replace(self, x_train=x_train, x_test=x_test)

    def padded(self, pad: int) -> "Arrays":
        """Returns the data with so many black pixels added on every side of every image."""
        around = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        return replace(self, x_train=np.pad(self.x_train, around), x_test=np.pad(self.x_test, around))


def _checked(data: Arrays, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
        got = f"{images.dtype} of shape {images.shape}"
        raise DataError(f"{data.where}: x_{part} is {got}, must be uint8 of shape (N, H, W, C) or (N, H, W)")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{data.where}: y_{part} is {labels.dtype} of shape {labels.shape}, must be integers of shape (N,)"
        )
    if len(images) != len(labels):
        raise DataError(f"{data.where}: x_{part} has {len(images)} images but y_{part} {len(labels)} labels")
    return images, labels.astype(np.int64)


def arrays(path: str) -> Arrays:
    """Reads one's own images: x_train, y_train, x_test, y_test from an .npz file (no pickles).

    Args:
        path: the file.
    """
    return read_npz(path)


def read_npz(path: str | Path, num_classes: int = 0) -> Arrays:
    """Reads x_train, y_train, x_test, y_test from an .npz file (no pickles).

    Args:
        path: the file.
        num_classes: how many classes there are; 0: as many as the training labels name.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{file}: no such file; it must be an .npz with {', '.join(NAMES)}")
    try:
        with open(file, "rb") as handle, np.load(handle, allow_pickle=False) as archive:
            missing = [name for name in NAMES if name not in archive]
            if missing:
                raise DataError(f"{file}: {', '.join(missing)} missing; an .npz with {', '.join(NAMES)} is needed")
            parts = [archive[name] for name in NAMES]
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        text = " ".join(str(error).split())
        raise DataError(f"{file}: cannot be read as .npz, it may be truncated ({text})") from error
    x_train, y_train, x_test, y_test = parts
    return Arrays(x_train, y_train, x_test, y_test, where=str(file), num_classes=num_classes)
