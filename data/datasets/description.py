"""What a data set says about itself: whatever builds a network, an objective or batches for it reads it here."""

from abc import abstractmethod
from typing import Protocol

import torch


class DataSet(Protocol):
    """The form of a data set's inputs and targets."""

    @property
    @abstractmethod
    def num_classes(self) -> int | None:
        """Number of classes, where targets are classes in [0, num_classes); None: they are no classes."""

    @property
    @abstractmethod
    def is_images(self) -> bool:
        """Whether inputs are images (C, H, W): they can be normalised, resized and augmented."""

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of an input; (C, H, W) of images."""

    @property
    @abstractmethod
    def input_dtype(self) -> torch.dtype:
        """Type of the elements of an input in a batch."""

    @property
    @abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target; () of a class."""

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Number of outputs that a network needs: `num_classes`, or the number of elements of a target."""
