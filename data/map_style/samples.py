"""Samples of a torch Dataset as tensors, whatever it returns them as."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..datasets.checks import MOST_COLORS
from ..errors import DataError, one_line
from ..samples.randomness import preserved, seed_sample

IMAGE_DIMS = 3  # of (C, H, W)
MODES = ("L", "RGB", "RGBA")  # of Pillow's images, with 8 bits a color


@dataclass(frozen=True)
class Form:
    """Shape and type of an input and of a target, which are those of every sample of a data set."""

    input_shape: tuple[int, ...]
    input_dtype: torch.dtype  # uint8 of images with 8 bits, which batches have as float32 on the [0, 1] scale
    target_shape: tuple[int, ...]
    target_dtype: torch.dtype

    @property
    def is_images(self) -> bool:
        """Whether inputs are images (C, H, W)."""
        return len(self.input_shape) == IMAGE_DIMS and self.input_dtype != torch.int64


def form_of(sample: tuple[Tensor, Tensor]) -> Form:
    """Returns the form of a sample."""
    inputs, target = sample
    return Form(tuple(inputs.shape), inputs.dtype, tuple(target.shape), target.dtype)


def as_sample(item: Any, are_classes: bool) -> tuple[Tensor, Tensor]:
    """Returns an item of a Dataset as (input, target).

    Args:
        item: a pair.
        are_classes: whether an integer target is a class; else it is a real number.

    Raises:
        DataError: it is no pair, or of no numbers; the text goes on from the name of the item.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        form = f"{type(item).__name__}{f' of {len(item)}' if isinstance(item, tuple | list) else ''}"
        raise DataError(f"is a {form}, must be a pair (input, target); there is no collate function to choose")
    inputs, target = (_as_tensor(value, name) for value, name in zip(item, ("input", "target"), strict=True))
    return as_inputs(inputs, channels_last=not isinstance(item[0], Tensor)), as_targets(target, are_classes)


def as_inputs(values: Tensor, channels_last: bool = False, batched: bool = False) -> Tensor:
    """Returns inputs as images (C, H, W) of uint8 or float32, or as float32 or int64.

    Args:
        values: an input.
        channels_last: whether an image whose first and last axis may both be that of channels is (H, W, C).
        batched: it is a batch of inputs.
    """
    dims = values.ndim - batched
    if values.dtype == torch.uint8 and dims == IMAGE_DIMS - 1:
        values = values.unsqueeze(-3)
    elif dims == IMAGE_DIMS and (values.dtype == torch.uint8 or values.is_floating_point()):
        first, last = values.shape[-3], values.shape[-1]
        if last <= MOST_COLORS and (channels_last or first > MOST_COLORS):
            values = values.movedim(-1, -3)
    elif values.dtype == torch.uint8:
        values = values.long()
    if dims == 0:
        values = values.unsqueeze(-1)
    if values.is_floating_point() or values.dtype == torch.bool:
        return values.float()
    return values if values.dtype == torch.uint8 else values.long()


def as_targets(values: Tensor, are_classes: bool, batched: bool = False) -> Tensor:
    """Returns targets as classes, int64 of shape (), as real numbers, float32 of shape (D, ...), or as other integers.

    Args:
        values: a target.
        are_classes: whether an integer is a class; else it is a real number.
        batched: it is a batch of targets.

    Raises:
        DataError: it is an integer in a list of one, which may be meant as either.
    """
    dims, is_real = values.ndim - batched, values.is_floating_point()
    if not is_real and dims == 1 and values.shape[-1] == 1:
        raise DataError("has an integer of shape (1,) as its target, must be an integer of shape (), or real numbers")
    if not is_real and (dims > 0 or are_classes):
        return values.long()
    values = values.float()
    return values.unsqueeze(-1) if dims == 0 else values


def _as_tensor(value: Any, name: str) -> Tensor:
    """Returns a tensor, an array, an image of Pillow, a number or a list of numbers as a tensor."""
    if type(value) is int:  # as most labels are
        return torch.tensor(value)
    if not isinstance(value, Tensor | np.ndarray) and isinstance(value, Image):
        if value.mode not in MODES:
            text = f"has an image of mode {value.mode} as its {name}, must be one of {', '.join(MODES)}"
            raise DataError(f"{text}: image.convert('RGB'), or a transform to tensors")
        value = np.array(value)
    if not isinstance(value, Tensor):
        array = np.asarray(value) if isinstance(value, np.ndarray | np.generic | int | float | Sequence) else None
        if array is None or array.dtype.kind not in "biuf":
            raise DataError(f"has a {type(value).__name__} as its {name}, must be a tensor, an array or numbers")
        if array.dtype in (np.uint16, np.uint32, np.uint64):
            array = array.astype(np.int64)
        value = torch.from_numpy(np.array(array))
    if value.is_complex() or value.layout != torch.strided:
        raise DataError(f"has a tensor of {value.dtype}, {value.layout} as its {name}, must be real and dense")
    return value.detach().as_subclass(Tensor)


class Samples(Dataset):
    """Samples by (seed, epoch, index), of which their random numbers are functions.

    An item that cannot be read is the error: one that is raised in a worker process would come with the traceback in
    its text.

    Args:
        dataset: of the user.
        part: its name, for messages.
        indices: of the samples in it.
        form: that every sample must have; None: any.
        are_classes: as in `as_sample`.
        targets_alone: whether inputs are left out.
    """

    def __init__(
        self,
        dataset: Any,
        part: str,
        indices: np.ndarray,
        form: Form | None,
        are_classes: bool,
        targets_alone: bool = False,
    ):
        self.dataset, self.part, self.indices = dataset, part, indices
        self.form, self.are_classes, self.targets_alone = form, are_classes, targets_alone

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> list[tuple[Tensor, Tensor] | Tensor | DataError]:
        """Returns the samples of a batch; torch's DataLoader prefers it to `__getitem__`."""
        with preserved():
            return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor] | Tensor | DataError:
        seed, epoch, index = key
        place = int(self.indices[index])
        name = f"data: item {place} of the {self.part} set"
        seed_sample(seed, epoch, index)
        try:
            item = self.dataset[place]
        except Exception as error:  # noqa: BLE001 - a Dataset may raise any error
            return DataError(f"{name} cannot be read ({type(error).__name__}: {one_line(error)})")
        try:
            sample = as_sample(item, self.are_classes)
        except DataError as error:
            return DataError(f"{name} {error}")
        problem = None if self.form is None else _difference(self.form, form_of(sample))
        if problem is not None:
            return DataError(f"{name} has {problem}")
        return sample[1] if self.targets_alone else sample


def _difference(first: Form, form: Form) -> str | None:
    """Returns what of a sample differs from the first one; None: nothing."""
    for what in ("input", "target"):
        shapes = [list(getattr(one, f"{what}_shape")) for one in (form, first)]
        types = [str(getattr(one, f"{what}_dtype")).removeprefix("torch.") for one in (form, first)]
        if shapes[0] != shapes[1]:
            hint = "; a transform must make them equal" if what == "input" else ""
            return (
                f"{'an' if what == 'input' else 'a'} {what} of shape {shapes[0]}, the first one has {shapes[1]}{hint}"
            )
        if types[0] != types[1]:
            return f"{what}s of type {types[0]}, the first one has {types[1]}"
    return None
