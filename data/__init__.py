"""From what: data sets, augmentation, and batches (their size over time, how often each is used)."""

from .arrays import Arrays, DataError, arrays
from .augmentation import Augmentation
from .batches import Batch, Position, batches
from .batching import Constant
from .digests import digest_of
from .digits import digits
from .features import Features
from .folders import Folders, FolderSource, image_folder
from .memory import InMemory
from .no_data import NoData
from .splits import bootstrap, class_balanced, split
from .stages import Stages
from .synthetic import synthetic
from .torchvision_arrays import svhn, torchvision_arrays

__all__ = [
    "Arrays",
    "Augmentation",
    "Batch",
    "Constant",
    "DataError",
    "Features",
    "FolderSource",
    "Folders",
    "InMemory",
    "NoData",
    "Position",
    "Stages",
    "arrays",
    "batches",
    "bootstrap",
    "class_balanced",
    "digest_of",
    "digits",
    "image_folder",
    "split",
    "svhn",
    "synthetic",
    "torchvision_arrays",
]
