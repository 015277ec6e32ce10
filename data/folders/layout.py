"""Where the images of a folder are: the training and the test set, their classes, and what is no image of them."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, listed

TRAIN = ("train", "training")
TEST = ("val", "valid", "validation", "test", "testing")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's
# what systems and archives leave beside images, and what lies below it; so is every name that begins with a dot
LITTER = ("__MACOSX", "__pycache__", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")


@dataclass(frozen=True)
class ImageFiles:
    """The image files below a folder, by class.

    Args:
        root: holds a folder for each class.
        classes: their names, in the order of their labels.
        samples: (path, label) of each image.
        left_out: how many files and folders are no images of a class, by name.
        empty: names of folders without images.
    """

    root: Path
    classes: list[str]
    samples: list[tuple[str, int]]
    left_out: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)

    @property
    def targets(self) -> list[int]:
        """The label of each image."""
        return [label for _, label in self.samples]


def list_images(root: Path, classes: Sequence[str] | None = None) -> ImageFiles:
    """Lists the image files in <root>/CLASS and below, in the order of torchvision's ImageFolder.

    Args:
        root: the folder.
        classes: names of the classes by label; None: the folders that hold images, sorted.

    Raises:
        DataError: there are no images, or images of other classes.
    """
    left_out: Counter[str] = Counter()
    files: dict[str, list[str]] = {}
    try:
        for name in sorted(os.listdir(root)):
            if is_litter(name) or not (root / name).is_dir():
                left_out[_kind(name, is_folder=(root / name).is_dir())] += 1
            else:
                files[name] = _images_below(root / name, left_out)
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be read ({error.strerror})") from error
    empty = [name for name, paths in files.items() if not paths]
    present = [name for name, paths in files.items() if paths]
    if not present:
        raise DataError(f"{root}: no folder in it holds images; they must lie in {root}/CLASS/ as {extensions()}")
    names = present if classes is None else list(classes)
    if unknown := sorted(set(present) - set(names)):
        raise DataError(
            f"{root}: both sets must hold the same classes; {listed(unknown)} is not among those of the training set,"
            f" {listed(names)}"
        )
    samples = [(path, label) for label, name in enumerate(names) for path in files.get(name, ())]
    return ImageFiles(root, names, samples, left_out, empty)


def find_sets(top: Path, test: str | None) -> tuple[Path, Path | None, list[str]]:
    """Returns the folders of the training and of the test images, and the names of those beside them.

    They are `train` with `val`, `valid`, `validation` or `test`, in letters of any case. Where there is none of these,
    the folder itself holds the training images; the test set is None where it has no folder.

    Args:
        top: holds both.
        test: name of the folder of the test images; None: the first of those above.

    Raises:
        DataError: a folder is missing.
    """
    if top.is_file():
        raise DataError(f"{top}: is a file, a folder of images is needed; data=arrays reads an .npz")
    names = sorted(p.name for p in top.iterdir() if p.is_dir() and not is_litter(p.name)) if top.is_dir() else []
    train, tests = _named(names, TRAIN), _named(names, TEST)
    if test is not None:
        if not (top / test).is_dir():
            raise DataError(f"{top / test}: no such folder; data.test names the folder of the test images")
        tests = [test]
    if not train and (tests or not names):
        raise DataError(
            f"{top / 'train'}: no such folder; images must lie in {top}/train/CLASS/ and {top}/val/CLASS/,"
            f" or in {top}/CLASS/ with data.validation"
        )
    if not train:
        return top, None, []
    beside = [name for name in names if name not in (train[0], *tests[:1])]
    return top / train[0], top / tests[0] if tests else None, beside


def missing_test_set(root: Path) -> str:
    """Returns the line that says that neither a folder nor a fraction of the images is for the test."""
    if root.name.casefold() in TRAIN:
        return (
            f"{root.parent / 'val'}: no such folder; test images must lie in {root.parent}/val/CLASS/ (or valid,"
            f" validation, test), or data.validation=0.2 holds out a fifth of the images in {root.name}/"
        )
    return (
        f"{root}: has no train/ and val/, and is read as one folder of classes;"
        " data.validation=0.2 holds out a fifth of its images"
    )


def is_litter(name: str) -> bool:
    """Returns whether a file or a folder of this name, and what lies below it, is nobody's data."""
    return name.startswith(".") or name in LITTER


def extensions() -> str:
    """Returns the extensions of image files as text."""
    return ", ".join(EXTENSIONS)


def counted(kinds: Counter[str]) -> str:
    """Returns what is left out as text, the most frequent first.

    >>> counted(Counter({"._*": 3, "Thumbs.db": 1}))
    '3 ._*, 1 Thumbs.db'
    """
    return listed([f"{count:,} {kind}" for kind, count in kinds.most_common()])


def _named(names: Iterable[str], choices: Sequence[str]) -> list[str]:
    """Returns the names that are among some, in letters of any case; in the order of these, small letters first."""
    among = [name for name in names if name.casefold() in choices]
    return sorted(among, key=lambda name: (choices.index(name.casefold()), name != name.casefold(), name))


def _images_below(folder: Path, left_out: Counter[str]) -> list[str]:
    """Returns the paths of the images in a folder and below, sorted; counts what else is there."""
    contents = []

    def refuse(error: OSError) -> None:
        raise error

    for path, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        left_out.update(_kind(name, is_folder=True) for name in folders if is_litter(name))
        folders[:] = [name for name in folders if not is_litter(name)]
        contents.append((path, files))
    images = []
    for path, files in sorted(contents):
        for name in sorted(files):
            if is_litter(name) or not name.lower().endswith(EXTENSIONS):
                left_out[_kind(name)] += 1
            else:
                images.append(os.path.join(path, name))
    return images


def _kind(name: str, is_folder: bool = False) -> str:
    """Returns under which name a file or a folder is counted that is left out.

    >>> [_kind(name) for name in ("._1.png", ".DS_Store", "Thumbs.db", "notes.txt", "README")]
    ['._*', '.DS_Store', 'Thumbs.db', '*.txt', 'README']
    """
    if name.startswith("._"):
        return "._*"
    if is_folder or is_litter(name) or name in ("Thumbs.db", "desktop.ini"):
        return name
    suffix = Path(name).suffix.lower()
    return f"*{suffix}" if suffix else name
