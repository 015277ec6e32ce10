"""A look at image files before the first step: which cannot be read, and how those with more than 8 bits are."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from ..datasets.splits import class_balanced
from ..errors import DataError, listed
from ..samples.loading import Progress, load
from .layout import ImageFiles
from .pixels import ImageFacts, check_reduced, look_at, smallest_white

SAMPLE = 1000  # images of each set that are looked at where not all are
BATCH = 32  # files that a worker process looks at before it reports


class _Facts(Dataset):
    """Facts about image files, as `look_at` returns them."""

    def __init__(self, paths: Sequence[str], whole: bool):
        self.paths, self.whole = paths, whole

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> ImageFacts:
        return look_at(self.paths[index], self.whole)


def look_at_all(paths: Sequence[str], whole: bool, workers: int, progress: Progress) -> list[ImageFacts]:
    """Returns what each of these image files is.

    Args:
        paths: of the files.
        whole: as in `look_at`.
        workers: number of processes that read; 0: this one does.
        progress: is told how far it is.
    """
    processes = workers if len(paths) > BATCH else 0
    batches = load(_Facts(paths, whole), processes, batch_size=BATCH, collate_fn=list)
    facts: list[ImageFacts] = []
    for batch in batches:
        facts += batch
        progress(len(facts), len(paths))
    return facts


def survey(
    sets: Sequence[ImageFiles], whole: bool, needs_white: bool, workers: int, progress: Progress
) -> list[ImageFacts]:
    """Returns what the files of image folders are: of all, or of a class-balanced sample of each set.

    All are looked at where `whole` is true, or where the value of white follows from images with more than 8 bits.

    Args:
        sets: of images.
        whole: read all pixels of all files.
        needs_white: whether the value of white is to be found.
        workers: as in `look_at_all`.
        progress: as in `look_at_all`.
    """
    paths = [path for files in sets for path, _ in files.samples]
    if whole:
        return look_at_all(paths, True, workers, progress)
    sample = [files.samples[index][0] for files in sets for index in class_balanced(np.array(files.targets), SAMPLE)]
    facts = look_at_all(sample, False, workers, progress)
    if needs_white and len(sample) < len(paths) and any(image.high is not None for image in facts):
        return look_at_all(paths, False, workers, progress)
    return facts


def unreadable(facts: Sequence[ImageFacts], may_skip: bool) -> list[ImageFacts]:
    """Returns the images that cannot be read; DataError, which begins with the name of the first, if none may be."""
    problems = [image for image in facts if image.problem is not None]
    if problems and not may_skip:
        more = f"; {len(problems) - 1:,} more cannot be read either" if len(problems) > 1 else ""
        raise DataError(f"{problems[0].problem}{more}; data.on_error=skip leaves such files out")
    return problems


def value_of_white(facts: Sequence[ImageFacts], max_value: float | None) -> float | None:
    """Returns the value of white for images with more than 8 bits: `max_value`, or what suits all that were looked at.

    Raises:
        DataError: no value does.
    """
    readable = [image for image in facts if image.problem is None]
    check_reduced(readable)
    if max_value is None:
        return smallest_white(readable)
    for image in readable:
        if (image.high or 0) > max_value:
            raise DataError(f"{image.path}: has values up to {image.high:g}, more than data.max_value={max_value:g}")
    return max_value


def notes_about(facts: Sequence[ImageFacts], total: int, white: float | None) -> list[str]:
    """Returns what a user may not expect of these images, a line each."""
    looked_at = f"{len(facts):,} images" if len(facts) == total else f"{len(facts):,} images that were looked at"
    deep = [image for image in facts if image.high is not None]
    notes = []
    if deep and white is not None:
        lowest, highest = min(image.low or 0 for image in deep), max(image.high or 0 for image in deep)
        notes.append(
            f"{len(deep):,} of {looked_at} have more than 8 bits a pixel, with values from {lowest:g} to"
            f" {highest:g}: 0 is black, {white:g} is white (data.max_value)"
        )
    traits = Counter(trait for image in facts for trait in image.traits)
    notes += [f"{count:,} of {looked_at} are {trait}" for trait, count in traits.most_common()]
    problems = [image.problem for image in facts if image.problem is not None]
    if problems:
        notes.append(f"{len(problems):,} of {looked_at} are left out: {listed(problems, 3)}")
    return notes
