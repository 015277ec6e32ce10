"""Folders of images: what a configuration says about them, and what is decided about their files."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import DataError, listed
from ..samples.loading import Progress
from .layout import ImageFiles, counted, find_sets, list_images
from .pixels import read_image
from .survey import notes_about, survey, unreadable, value_of_white


@dataclass
class Folders:
    """The training and the test images of an image folder, and the arguments of their transforms.

    Args:
        train, test: the files; None: there is no folder of test images.
        white: value of white in images with more than 8 bits; None: there are none.
        skipped: names of the files of both sets, relative to the folder, that are left out as they cannot be read.
        notes: what a user may not expect, a line each.
    """

    train: ImageFiles
    test: ImageFiles | None
    size: int
    crop_pct: float
    scale: tuple[float, float]
    ratio: tuple[float, float]
    color_jitter: float
    interpolation: str
    workers: int
    white: float | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_classes(self) -> int:
        """Number of classes: of the folders of training images."""
        return len(self.train.classes)

    @property
    def is_images(self) -> bool:
        """Whether inputs are images: they are."""
        return True

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the inputs."""
        return 3, self.size, self.size

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of the elements of an input: float32."""
        return torch.float32

    @property
    def num_tokens(self) -> int | None:
        """Number of tokens: images have none."""
        return None

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target, which is a class."""
        return ()

    @property
    def num_outputs(self) -> int:
        """Number of classes."""
        return self.num_classes

    @property
    def decisions(self) -> dict[str, Any]:
        """What was decided by a look at the files: what a run that goes on, or is evaluated, takes as it was."""
        return {"max_value": self.white, "skipped": self.skipped}


def image_folder(
    path: str,
    size: int = 224,
    crop_pct: float = 0.875,
    scale: tuple[float, float] | list[float] = (0.08, 1.0),
    ratio: tuple[float, float] | list[float] = (0.75, 1.3333),
    color_jitter: float = 0.0,
    interpolation: str = "bilinear",
    workers: int = 4,
    test: str | None = None,
    check: bool = False,
    on_error: str = "stop",
    max_value: float | None = None,
    decisions: dict[str, Any] | None = None,
    progress: Progress = lambda done, total: None,
) -> Folders:
    """Finds the images below <path>/train/CLASS and <path>/val/CLASS, or below <path>/CLASS, and looks at some or all.

    Args:
        path: the folder that holds train/ and val/ (or valid/, validation/, test/), or the folders of classes.
        size: inputs are size x size pixels.
        crop_pct: evaluation uses the center of an image whose shorter side is resized to size / crop_pct.
        scale: training: smallest and largest fraction of the area of a random crop.
        ratio: training: smallest and largest ratio of width to height of a random crop.
        color_jitter: training: strength of random brightness, contrast and saturation.
        interpolation: bilinear or bicubic.
        workers: number of processes that read and transform images, at most one for each core that the run may use;
            0: the process of the run does.
        test: name of the folder of the test images; None: that of val, valid, validation and test which is there.
        check: read all files now; otherwise a sample is looked at.
        on_error: `stop` at a file that cannot be read, or `skip` such files: all are then read now.
        max_value: value of white in images with more than 8 bits; None: of the fewest bits that hold all values.
        decisions: those of `Folders`, of an earlier start of the run, which hold; None: there was none.
        progress: is called with how many files of how many were looked at.

    Raises:
        DataError: a folder is missing, the test set holds classes that the training set has not, or a file that was
            looked at cannot be used.
    """
    top = Path(path).expanduser()
    train_folder, test_folder, beside = find_sets(top, test)
    train = list_images(train_folder)
    if len(train.classes) < 2:
        raise DataError(f"{train_folder}: holds one class only, {train.classes[0]}; two are needed, a folder each")
    sets = [train] if test_folder is None else [train, list_images(test_folder, train.classes)]
    notes = [f"not read in {top}: {listed(beside)}; data.test=NAME chooses the folder of the test images"] * bool(
        beside
    )
    notes += [note for files in sets for note in notes_about_layout(files)]
    if decisions is None:
        white, skipped, more = decide(sets, top, check, on_error == "skip", max_value, workers, progress)
        notes += more
    else:
        white, skipped = decisions["max_value"], decisions["skipped"]
    sets = [without(files, top, set(skipped)) for files in sets]
    return Folders(
        train=sets[0],
        test=sets[1] if len(sets) > 1 else None,
        size=size,
        crop_pct=crop_pct,
        scale=(scale[0], scale[1]),
        ratio=(ratio[0], ratio[1]),
        color_jitter=color_jitter,
        interpolation=interpolation,
        workers=workers,
        white=white,
        skipped=skipped,
        notes=notes,
    )


def with_test_images(data: Folders, path: str) -> Folders:
    """Returns the data with other test images: those below <path>/CLASS, of the classes of the training images."""
    return replace(data, test=list_images(Path(path).expanduser(), data.train.classes))


def folder_arrays(path: str, num_classes: int, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads images of one size below <path>/CLASS; labels are the places of the classes in sorted order.

    Args:
        path: the folder.
        num_classes: number of classes, each of which has a folder.
        channels: 1: in gray levels, else in colour.

    Returns:
        Images (N, H, W, C) uint8, and labels (N,).

    Raises:
        DataError: an image cannot be read, they differ in size, or there are other classes.
    """
    files = list_images(Path(path).expanduser())
    if len(files.classes) != num_classes:
        raise DataError(f"{path}: has folders of {len(files.classes)} classes, must be {num_classes}, as in training")
    images = [np.asarray(read_image(name, None).convert("L" if channels == 1 else "RGB")) for name, _ in files.samples]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise DataError(f"{path}: has images of {len(sizes)} sizes, must be of one size, as the training images")
    stack = np.stack(images)
    return stack[..., None] if channels == 1 else stack, np.asarray(files.targets)


def decide(
    sets: list[ImageFiles],
    top: Path,
    check: bool,
    may_skip: bool,
    max_value: float | None,
    workers: int,
    progress: Progress,
) -> tuple[float | None, list[str], list[str]]:
    """Looks at files; returns the value of white, the names of those that are left out, and notes.

    Args:
        sets: of images.
        top: names are relative to it.
        check: read all files.
        may_skip: leave out files that cannot be read.
        max_value: value of white; None: it is found.
        workers: number of processes that read.
        progress: as in `image_folder`.

    Raises:
        DataError: a file cannot be used.
    """
    facts = survey(sets, check or may_skip, max_value is None, workers, progress)
    skipped = [str(Path(image.path).relative_to(top)) for image in unreadable(facts, may_skip)]
    white = value_of_white(facts, max_value)
    return white, skipped, notes_about(facts, sum(len(files.samples) for files in sets), white)


def without(files: ImageFiles, top: Path, skipped: set[str]) -> ImageFiles:
    """Returns image files but those with these names; DataError where none is left."""
    if not skipped:
        return files
    samples = [(path, label) for path, label in files.samples if str(Path(path).relative_to(top)) not in skipped]
    if not samples:
        raise DataError(f"{files.root}: none of its images can be read")
    return replace(files, samples=samples)


def notes_about_layout(files: ImageFiles) -> list[str]:
    """Returns which files and folders hold no images of a class, and which classes the set has none of."""
    present = set(files.targets)
    missing = [name for label, name in enumerate(files.classes) if label not in present]
    notes = [f"not read in {files.root}: {counted(files.left_out)}"] * bool(files.left_out)
    empty = [name for name in files.empty if name not in missing]
    notes += [f"{files.root}: folders without images are no classes: {listed(empty)}"] * bool(empty)
    notes += [f"{files.root}: has no images of {listed(missing)}"] * bool(missing)
    return notes
