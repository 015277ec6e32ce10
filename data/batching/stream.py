"""The stream of batches of a run, from any position, with exact positions."""

from collections.abc import Iterator
from itertools import tee
from typing import NamedTuple

from torch import Tensor

from .protocols import Batching, Position, Source


class Batch(NamedTuple):
    """One update's data."""

    inputs: Tensor  # (B, ...); images are (B, C, H, W) float32, normalised
    targets: Tensor  # (B, ...); classes are (B,) int64, or with mixup probabilities (B, classes) float32
    size: int  # B
    after: Position  # where the run stands after the update


def batches(source: Source, batching: Batching, seed: int, position: Position) -> Iterator[Batch]:
    """Yields batches without end, from `position` on.

    Order and augmentation are functions of (seed, epoch, index); size and repeats of a batch are functions of the
    position where it begins. So the stream from a position is the rest of the stream from the start. An epoch is one
    pass over the data; the repeats of a batch are the same tensors.

    Raises:
        ValueError: an epoch holds no batch.
    """
    epoch, offset, repeat, step = position
    while True:
        spans, ahead = tee(batching.spans_from(Position(epoch, offset, 0, step - repeat), len(source)))
        loaded = source.epoch(seed, epoch, ahead)  # which may read ahead of the positions
        span = next(spans, None)
        if span is None and offset == 0:
            raise ValueError("an epoch holds no batch")
        while span is not None:
            start, stop = span
            span = next(spans, None)
            begun = Position(epoch, start, 0, step - repeat)
            updates = batching.repeats(begun, len(source))
            end = begun.step + updates
            done = Position(epoch + 1, step=end) if span is None else Position(epoch, span[0], step=end)
            inputs, targets = next(loaded)
            for count in range(repeat + 1, updates + 1):
                after = done if count == updates else Position(epoch, start, count, begun.step + count)
                yield Batch(inputs, targets, stop - start, after)
            step, repeat = end, 0
        epoch, offset = epoch + 1, 0
