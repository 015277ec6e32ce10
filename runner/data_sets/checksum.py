"""The checksum of a run's data set, for its records."""

import os

import numpy as np

from trainopt.data import ARRAY_NAMES, Arrays, Folders, ImageFiles, NoData, TorchDatasets, checksum_of, digest_of

from ..system.errors import UserError
from .evaluation_sets import AnyData

FILES = 64  # at most, of each set of image files, that are looked at


def data_checksum(data: AnyData) -> dict[str, str] | None:
    """Returns `value`, a checksum of a data set as it was read, and `of`, what it is a checksum of; None: no data.

    The validation split, data.limit and further test sets have no part in it. It costs a pass over arrays in memory;
    no file is read.
    """
    if isinstance(data, NoData):
        return None
    if isinstance(data, Arrays):
        value = checksum_of(getattr(data, name) for name in ARRAY_NAMES)
        return {"value": value, "of": f"the values of {', '.join(ARRAY_NAMES)}"}
    if isinstance(data, Folders):
        sets = [files for files in (data.train, data.test) if files is not None]
        of = f"the classes, the number of image files of each, and the names and sizes of {FILES} files of each set"
        return {"value": digest_of(*map(files_digest, sets)), "of": of}
    return dataset_checksum(data)


def check_same_data(
    place: str, former: dict[str, str] | None, present: dict[str, str] | None, sizes: tuple[int, int]
) -> None:
    """Refuses to go on with a run on other data than it was trained on.

    Args:
        place: where the data is read from.
        former: as of `data_checksum`, of the run so far; None: a version that recorded none began it.
        present: the same of the data as it is now.
        sizes: the number of training samples so far, and now.
    """
    changes = []
    if sizes[0] != sizes[1]:
        changes.append(f"{sizes[1]} training samples, before {sizes[0]}")
    if former is not None and present is not None and former["value"] != present["value"]:
        changes.append(f"checksum {present['value'][:12]}, before {former['value'][:12]}, of {former['of']}")
    if changes:
        raise UserError(
            f"{place}: is not the data that the run was trained on until now ({'; '.join(changes)}); put that data"
            " back, or give run.name=NAME or hydra.run.dir=DIR for a new run"
        )


def files_digest(files: ImageFiles) -> str:
    """Returns a digest of classes, their numbers of files, and names and sizes of files at equal distances."""
    at = np.linspace(0, len(files.samples) - 1, min(FILES, len(files.samples))).astype(int)
    paths = [files.samples[index][0] for index in at]
    looked_at = [(os.path.relpath(path, files.root), os.stat(path).st_size) for path in paths]
    return digest_of(files.classes, np.bincount(files.targets).tolist(), looked_at)


def dataset_checksum(data: TorchDatasets) -> dict[str, str]:
    """Returns the checksum of torch Datasets: of their tensors, or, where they are not in memory, of their classes."""
    whole = [data.tensors(part) for part in data.parts]
    if all(sample is not None for sample in whole):
        tensors = [values.contiguous().numpy() for sample in whole if sample is not None for values in sample]
        return {"value": checksum_of(tensors), "of": f"the values of {', '.join(data.parts)}"}
    counts = {name: len(dataset) for name, dataset in data.parts.items()}
    classes = [] if data.labels is None else [data.labels[part] for part in data.parts]
    of = "the number of samples" + (" and their classes" if classes else "") + f" of {', '.join(data.parts)}"
    return {"value": digest_of(counts, checksum_of(classes)), "of": of}
