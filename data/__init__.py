"""From what: data sets, augmentation, and batches (their size over time, how often each is used)."""

from .batching.adaptive import Answer, Controlled
from .batching.constant import Batching, Changing, Constant
from .batching.controllers import GrowthControl, NormTest, ReferenceControl
from .batching.dynamic import Dynamic
from .batching.stages import Stages
from .batching.stream import Batch, Position, batches, spans_of
from .datasets.arrays import Arrays, arrays
from .datasets.digits import digits
from .datasets.no_data import NoData
from .datasets.splits import bootstrap, class_balanced, split
from .datasets.synthetic import synthetic
from .datasets.torchvision_arrays import svhn, torchvision_arrays
from .digests import digest_of
from .errors import DataError
from .sources.augmentation import Augmentation
from .sources.features import Features
from .sources.folders import Folders, FolderSource, image_folder
from .sources.memory import InMemory

__all__ = [
    "Answer",
    "Arrays",
    "Augmentation",
    "Batch",
    "Batching",
    "Changing",
    "Constant",
    "Controlled",
    "DataError",
    "Dynamic",
    "Features",
    "FolderSource",
    "Folders",
    "GrowthControl",
    "InMemory",
    "NoData",
    "NormTest",
    "Position",
    "ReferenceControl",
    "Stages",
    "arrays",
    "batches",
    "bootstrap",
    "class_balanced",
    "digest_of",
    "digits",
    "image_folder",
    "spans_of",
    "split",
    "svhn",
    "synthetic",
    "torchvision_arrays",
]
