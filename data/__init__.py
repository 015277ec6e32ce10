"""Data sets, augmentation, and batches: their size over time, and batch reuse."""

from .batching.adaptive import AdaptiveBatchSize, Proposal
from .batching.base import BatchUse, VariableBatchSize
from .batching.constant import Constant
from .batching.dynamic import Dynamic
from .batching.follow_reference import FollowReference, ReferenceTrajectory
from .batching.growth_control import GrowthControl, GrowthController
from .batching.norm_test import NormTest
from .batching.protocols import Batching, Position, Source
from .batching.shards import Shards
from .batching.stages import Stages
from .batching.stream import Batch, batches
from .batching.wrappers import Reconstruction
from .datasets.arrays import ARRAY_NAMES, Arrays
from .datasets.description import DataSet, InputsAsTargets
from .datasets.modular_addition import modular_addition
from .datasets.no_data import NoData
from .datasets.own_files import arrays, read_test_arrays
from .datasets.scikit_learn import breast_cancer, diabetes, digits
from .datasets.splits import bootstrap, class_balanced, split
from .datasets.synthetic import synthetic
from .datasets.torchvision_arrays import svhn, torchvision_arrays
from .digests import checksum_of, digest_of
from .errors import DamagedImage, DataError, listed
from .folders.image_folder import Folders, folder_arrays, image_folder, with_test_images
from .folders.layout import ImageFiles, missing_test_set
from .folders.source import FolderSource
from .map_style.datasets import TorchDatasets, torch_datasets
from .map_style.source import DatasetSource
from .sources.augmentation import Augmentation
from .sources.memory import InMemory
from .sources.policies import AugMix, RandAugment, TrivialAugment
from .sources.tensors import Features, Tensors
from .sources.transformed import TransformedInMemory

__all__ = [
    "ARRAY_NAMES",
    "AdaptiveBatchSize",
    "Arrays",
    "AugMix",
    "Augmentation",
    "Batch",
    "BatchUse",
    "Batching",
    "Constant",
    "DamagedImage",
    "DataError",
    "DataSet",
    "DatasetSource",
    "Dynamic",
    "Features",
    "FolderSource",
    "Folders",
    "FollowReference",
    "GrowthControl",
    "GrowthController",
    "ImageFiles",
    "InMemory",
    "InputsAsTargets",
    "NoData",
    "NormTest",
    "Position",
    "Proposal",
    "RandAugment",
    "Reconstruction",
    "ReferenceTrajectory",
    "Shards",
    "Source",
    "Stages",
    "Tensors",
    "TorchDatasets",
    "TransformedInMemory",
    "TrivialAugment",
    "VariableBatchSize",
    "arrays",
    "batches",
    "bootstrap",
    "breast_cancer",
    "checksum_of",
    "class_balanced",
    "diabetes",
    "digest_of",
    "digits",
    "folder_arrays",
    "image_folder",
    "listed",
    "missing_test_set",
    "modular_addition",
    "read_test_arrays",
    "split",
    "svhn",
    "synthetic",
    "torch_datasets",
    "torchvision_arrays",
    "with_test_images",
]
