"""The checksum of a run's data set, for its records."""

import os

import numpy as np

from trainopt.data import ARRAY_NAMES, Arrays, Folders, ImageFiles, NoData, TorchDatasets, checksum_of, digest_of

from .evaluation_sets import AnyData

FILES = 256  # at most, of each folder, whose sizes are looked at


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
        of = f"the names and classes of the image files, and the sizes of {FILES} files of each set at equal distances"
        return {"value": digest_of(*map(files_digest, sets)), "of": of}
    return dataset_checksum(data)


def files_digest(files: ImageFiles) -> str:
    """Returns a digest of image files; their names are those below the folder."""
    start = len(str(files.root))
    names = "\n".join([path[start:] for path, _ in files.samples])
    at = np.linspace(0, len(files.samples) - 1, min(FILES, len(files.samples))).astype(int)
    sizes = [os.stat(files.samples[index][0]).st_size for index in at]
    return digest_of(names, checksum_of([np.asarray(files.targets)]), sizes)


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
