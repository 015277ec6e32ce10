"""Streams of batches."""

import itertools

import torch

from trainopt.data import Position, batches


def assert_stream_continues(source, batching, stop: int) -> None:
    """From where `stop` updates lead to, the stream is the rest of the stream from the start, for eight updates."""
    whole = list(itertools.islice(batches(source, batching, 3, Position()), stop + 8))
    position = whole[stop - 1].after if stop else Position()
    for expected, batch in zip(whole[stop:], batches(source, batching, 3, position), strict=False):
        assert torch.equal(expected.inputs, batch.inputs)
        assert (expected.size, expected.after) == (batch.size, batch.after)
    assert [batch.after.step for batch in whole] == list(range(1, stop + 9))
