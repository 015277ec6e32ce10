"""The stream of batches of a run, from any position, with exact positions."""

from collections.abc import Iterator
from itertools import tee
from typing import NamedTuple

from torch import Tensor

from .protocols import Position, Source


class Batch(NamedTuple):
    """One update's data."""

    inputs: Tensor  # (B, C, H, W) float32, normalised
    targets: Tensor  # (B,) int64, or with mixup probabilities (B, classes) float32
    size: int  # B
    after: Position  # where the run stands after the update


def spans_of(batching, begun: Position, epoch_size: int) -> Iterator[tuple[int, int]]:
    """Returns (start, stop) of the batches of an epoch, from the one on that begins at a position.

    Where sizes depend on more than the offset, a batching says them in `spans_from`, else in `spans`.
    """
    spans_from = getattr(batching, "spans_from", None)
    return batching.spans(epoch_size, begun.offset) if spans_from is None else spans_from(begun, epoch_size)


def batches(source: Source, batching, seed: int, position: Position) -> Iterator[Batch]:
    """Yields batches without end, from `position` on.

    Order and augmentation are functions of (seed, epoch, index), how large a batch is and how often it is used are
    ones of the position where it begins: the stream from a position is the rest of the stream from the start. An
    epoch is one pass over the data; a batch's repeats are the same tensors. Without a method `repeats` of
    `batching` there are none.
    """
    epoch, offset, repeat, step = position
    repeats = getattr(batching, "repeats", None)
    while True:
        # the source may read ahead of the positions
        spans, ahead = tee(spans_of(batching, Position(epoch, offset, 0, step - repeat), len(source)))
        loaded = source.epoch(seed, epoch, ahead)
        here = next(spans, None)
        if here is None and offset == 0:
            raise ValueError("an epoch holds no batch")
        while here is not None:
            following = next(spans, None)
            begun = Position(epoch, here[0], 0, step - repeat)
            updates = repeats(begun, len(source)) if repeats else 1
            end = begun.step + updates
            done = Position(epoch + 1, step=end) if following is None else Position(epoch, following[0], step=end)
            inputs, targets = next(loaded)
            for count in range(repeat + 1, updates + 1):
                after = done if count == updates else Position(epoch, here[0], count, begun.step + count)
                yield Batch(inputs, targets, here[1] - here[0], after)
            step, repeat, here = end, 0, following
        epoch, offset = epoch + 1, 0
