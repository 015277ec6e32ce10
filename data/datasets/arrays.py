"""Images and labels as arrays, checked when they are read."""

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, one_line

NAMES = ("x_train", "y_train", "x_test", "y_test")
NPY = b"\x93NUMPY"  # what a file with a single array begins with
MOST_COLORS = 4  # channels of colour images, with transparency: a longer last axis is not that of channels


@dataclass
class Arrays:
    """A data set in memory: images (N, H, W, C) uint8 and labels (N,) int64 in [0, num_classes).

    Grayscale images may have the shape (N, H, W).

    Args:
        where: the origin of the data, with which error messages begin.
        num_classes: 0: the largest training label, plus 1; every class then has training images.

    Raises:
        DataError: the arrays have another form.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    where: str
    num_classes: int = 0

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = _checked(self, part)
            setattr(self, f"x_{part}", images)
            setattr(self, f"y_{part}", labels)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            shapes = f"{self.x_train.shape[1:]} and {self.x_test.shape[1:]}"
            raise DataError(f"{self.where}: training and test images differ in shape, {shapes}")
        if not self.num_classes:
            self.num_classes = _count_classes(self.y_train, self.where)
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
        """Returns the data with the only channel of grayscale images repeated; DataError where they have several."""
        current = self.image_shape[0]
        if current == channels:
            return self
        if current != 1:
            raise DataError(f"channels={channels}: images have {current} channels; only grayscale ones can get more")
        x_train, x_test = (np.repeat(images, channels, axis=3) for images in (self.x_train, self.x_test))
        return replace(self, x_train=x_train, x_test=x_test)

    def padded(self, pad: int) -> "Arrays":
        """Returns the data with zero padding of `pad` pixels on every side of every image."""
        widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
        return replace(self, x_train=np.pad(self.x_train, widths), x_test=np.pad(self.x_test, widths))


def _checked(data: Arrays, part: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
        form = f"{images.dtype} of shape {images.shape}"
        raise DataError(f"{data.where}: x_{part} is {form}, must be uint8 of shape (N, H, W, C) or (N, H, W)")
    if len(images) == 0:
        raise DataError(f"{data.where}: x_{part} has no images, must be uint8 of shape (N, H, W, C) with N >= 1")
    if images.shape[3] > MOST_COLORS and images.shape[1] in (1, 3, MOST_COLORS):
        raise DataError(
            f"{data.where}: x_{part} of shape {images.shape} has its channels first, must be (N, H, W, C):"
            f" x_{part}.transpose(0, 2, 3, 1)"
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{data.where}: y_{part} is {labels.dtype} of shape {labels.shape}, must be integers of shape (N,)"
        )
    if len(images) != len(labels):
        raise DataError(f"{data.where}: x_{part} has {len(images)} images but y_{part} {len(labels)} labels")
    return images, labels.astype(np.int64)


def _count_classes(labels: np.ndarray, where: str) -> int:
    """Returns the number of classes, whose labels must be 0, 1, 2, ... without a gap."""
    classes = np.unique(labels)
    if classes[0] < 0 or classes[-1] == len(classes) - 1:  # what is below 0 is refused with the range
        return int(classes[-1]) + 1
    first = ", ".join(map(str, classes[:3])) + (", …" if len(classes) > 3 else "")
    raise DataError(
        f"{where}: y_train holds {len(classes)} different labels, {first} up to {classes[-1]}, must be 0 to"
        f" {len(classes) - 1}, as np.unique(y_train, return_inverse=True)[1] makes them;"
        " num_classes says how many there are where classes have no training images"
    )


def arrays(path: str, num_classes: int | None = None) -> Arrays:
    """Reads the user's own images from an .npz file, as `read_npz` does; None: it counts the classes."""
    return read_npz(path, num_classes or 0)


def read_npz(path: str | Path, num_classes: int = 0) -> Arrays:
    """Reads x_train, y_train, x_test, y_test from an .npz file (without pickles).

    Args:
        path: the file.
        num_classes: number of classes; 0: the largest training label, plus 1.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not those of `Arrays`.
    """
    file = Path(path).expanduser()
    contents = f"an .npz with {', '.join(NAMES)} is needed"
    if file.is_dir():
        raise DataError(f"{file}: is a folder; {contents}; data=imagefolder reads folders of images")
    if not file.is_file():
        raise DataError(f"{file}: no such file; it must be an .npz with {', '.join(NAMES)}")
    try:
        with open(file, "rb") as handle:
            start = handle.read(len(NPY))
            if start == NPY:
                raise DataError(f"{file}: holds a single array; {contents}, as np.savez writes it")
            if start and not start.startswith(b"PK"):
                raise DataError(f"{file}: is no .npz; {contents}, as np.savez writes it")
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as archive:
                missing = [name for name in NAMES if name not in archive]
                if missing:
                    raise DataError(f"{file}: {', '.join(missing)} missing; {contents}")
                parts = [archive[name] for name in NAMES]
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        text = one_line(error)
        raise DataError(f"{file}: cannot be read as .npz, it may be truncated or hold no numbers ({text})") from error
    x_train, y_train, x_test, y_test = parts
    return Arrays(x_train, y_train, x_test, y_test, where=str(file), num_classes=num_classes)
