"""From what: data sets, augmentation, and batches (their size over time, how often each is used)."""

from .arrays import Arrays, DataError, arrays
from .augmentation import Augmentation
from .batches import Batch, Position, batches, spans_of
from .batching import Batching, Changing, Constant
from .controlled import Answer, Controlled
from .controllers import GrowthControl, NormTest, ReferenceControl
from .digests import digest_of
from .digits import digits
from .dynamic import Dynamic
from .features import Features
from .folders import Folders, FolderSource, image_folder
from .memory import InMemory
from .no_data import NoData
from .splits import bootstrap, class_balanced, split
from .stages import Stages
from .synthetic import synthetic
from .torchvision_arrays import svhn, torchvision_arrays

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
