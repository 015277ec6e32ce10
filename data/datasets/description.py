"""What a data set says about itself: whatever builds a network, an objective or batches for it reads it here."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

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

    @property
    def num_tokens(self) -> int | None:
        """Number of tokens, where inputs are sequences of integers in [0, num_tokens); None: they are no tokens."""
        return None


@dataclass(frozen=True)
class InputsAsTargets:
    """The description of a data set whose targets are its inputs, for autoencoders.

    Args:
        is_images: as of `DataSet`.
        input_shape: as of `DataSet`.
        input_dtype: as of `DataSet`.
    """

    is_images: bool
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype
    num_classes: ClassVar[int | None] = None
    num_tokens: ClassVar[int | None] = None

    @property
    def target_shape(self) -> tuple[int, ...]:
        """Shape of a target: of an input."""
        return self.input_shape

    @property
    def num_outputs(self) -> int:
        """Number of elements of an input."""
        return math.prod(self.input_shape)
