"""Inputs and targets as arrays, checked when they are read."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import DataError, one_line
from .checks import are_images, checked_inputs, checked_targets, count_classes

ARRAY_NAMES = ("x_train", "y_train", "x_test", "y_test")
NPY = b"\x93NUMPY"  # what a file with a single array begins with


@dataclass
class Arrays:
    """A data set in memory: the inputs and the targets of a training set and of a test set.

    Images are uint8 (N, H, W, C) or (N, H, W), on a scale to 255, or floats (N, H, W, C). Other inputs are floats of
    any shape (N, ...) or integers (N, F). Integers (N,) as targets are classes in [0, num_classes). Floats become
    float32; as targets (N,) they get the shape (N, 1). Other integers become int64.

    Args:
        where: the origin of the data, with which error messages begin.
        num_classes: 0: the largest training label, plus 1; every class then has training images. None: targets are
            no classes, also where they are integers (N,), which become float32 (N, 1). It becomes None where targets
            have another form.

    Raises:
        DataError: the arrays have another form.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    where: str
    num_classes: int | None = 0

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            inputs, targets = (np.asanyarray(getattr(self, f"{name}_{part}")) for name in "xy")
            inputs = checked_inputs(inputs, f"{self.where}: x_{part}")
            targets = checked_targets(targets, self.num_classes is not None, f"{self.where}: y_{part}")
            if len(inputs) != len(targets):
                what = "images but" if are_images(inputs) else "inputs but"
                names = "labels" if targets.ndim == 1 else "targets"
                raise DataError(f"{self.where}: x_{part} has {len(inputs)} {what} y_{part} {len(targets)} {names}")
            setattr(self, f"x_{part}", inputs)
            setattr(self, f"y_{part}", targets)
        self._check_equal("x", "images" if self.is_images else "inputs")
        self._check_equal("y", "targets")
        if self.y_train.ndim > 1:
            if self.num_classes:
                raise DataError(f"{self.where}: num_classes={self.num_classes}: targets are no classes; leave it out")
            self.num_classes = None
        else:
            self._check_classes()

    def _check_equal(self, name: str, what: str) -> None:
        """Raises DataError where inputs or targets of the two sets differ in shape or type."""
        train, test = getattr(self, f"{name}_train"), getattr(self, f"{name}_test")
        for word, one, two in (("shape", train.shape[1:], test.shape[1:]), ("type", train.dtype, test.dtype)):
            if one != two:
                raise DataError(f"{self.where}: training and test {what} differ in {word}, {one} and {two}")

    def _check_classes(self) -> None:
        """Counts the classes where their number is not known; DataError where a label is none of them."""
        self.num_classes = self.num_classes or count_classes(self.y_train, self.where)
        for part in ("train", "test"):
            labels = getattr(self, f"y_{part}")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                span = f"{labels.min()} to {labels.max()}"
                raise DataError(f"{self.where}: y_{part} holds labels {span}, must be 0 to {self.num_classes - 1}")

    @property
    def is_images(self) -> bool:
        """Whether inputs are images."""
        return are_images(self.x_train)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input; (C, H, W) of images."""
        if not self.is_images:
            return self.x_train.shape[1:]
        height, width, channels = self.x_train.shape[1:]
        return channels, height, width

    @property
    def input_dtype(self) -> torch.dtype:
        """float32, or int64 where inputs are integers."""
        return torch.int64 if self.x_train.dtype == np.int64 else torch.float32

    @property
    def num_tokens(self) -> int | None:
        """The largest integer of the inputs plus 1, where they are integers >= 0; None: they are no tokens."""
        if self.input_dtype != torch.int64 or min(self.x_train.min(), self.x_test.min()) < 0:
            return None
        return int(max(self.x_train.max(), self.x_test.max())) + 1

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target; () of a class."""
        return self.y_train.shape[1:]

    @property
    def num_outputs(self) -> int:
        """Number of classes, or of the elements of a target."""
        return self.num_classes or math.prod(self.target_shape)

    def with_channels(self, channels: int) -> "Arrays":
        """Returns the data with the only channel of grayscale images repeated; DataError where they have several."""
        current = self.input_shape[0]
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


def read_npz(path: str | Path, num_classes: int = 0) -> Arrays:
    """Reads x_train, y_train, x_test, y_test from an .npz file (without pickles).

    Args:
        path: the file.
        num_classes: number of classes; 0: the largest training label, plus 1.

    Raises:
        DataError: the file is missing or damaged, or its arrays are not those of `Arrays`.
    """
    file = Path(path).expanduser()
    contents = f"an .npz with {', '.join(ARRAY_NAMES)} is needed"
    if file.is_dir():
        others = "a folder of x_train.npy, …, one of datasets.DatasetDict.save_to_disk, or data=imagefolder for images"
        raise DataError(f"{file}: is a folder; {contents}, or {others}")
    if not file.is_file():
        raise DataError(f"{file}: no such file; it must be an .npz with {', '.join(ARRAY_NAMES)}")
    parts = read_archive(file, ARRAY_NAMES, contents)
    missing = [name for name in ARRAY_NAMES if name not in parts]
    if missing:
        raise DataError(f"{file}: {', '.join(missing)} missing; {contents}")
    return Arrays(**parts, where=str(file), num_classes=num_classes)


def read_archive(file: Path, names: Sequence[str], contents: str) -> dict[str, np.ndarray]:
    """Returns those arrays of an .npz that have one of these names; pickles are not read.

    Args:
        file: the .npz.
        names: of the arrays.
        contents: what is needed, for messages.

    Raises:
        DataError: the file is missing, is no .npz, or is damaged.
    """
    try:
        with open(file, "rb") as handle:
            start = handle.read(len(NPY))
            if start == NPY:
                raise DataError(f"{file}: holds a single array; {contents}, as np.savez writes it")
            if start and not start.startswith(b"PK"):
                raise DataError(f"{file}: is no .npz; {contents}, as np.savez writes it")
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as archive:
                return {name: archive[name] for name in names if name in archive}
    except FileNotFoundError as error:
        raise DataError(f"{file}: no such file; {contents}") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError) as error:
        text = one_line(error)
        raise DataError(f"{file}: cannot be read as .npz, it may be truncated or hold no numbers ({text})") from error
