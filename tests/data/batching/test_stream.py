"""The stream of batches: from any position it is the rest of the stream; epochs and batch reuse."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainopt.data import Augmentation, Constant, InMemory, Position, batches

MEAN, STD = [0.3, 0.5], [0.2, 0.4]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 5, 7, 2), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 23)


settled = settings(max_examples=60, deadline=None)


@settled
@given(st.integers(1, 40), st.integers(1, 3), st.booleans(), st.integers(0, 50), st.integers(0, 2**40))
def test_the_stream_from_a_position_is_the_rest_of_the_stream(size, persistency, drop_last, stop, seed):
    batching = Constant(size, persistency=persistency, drop_last=drop_last and size <= 23)
    options = Augmentation(flip=0.5, crop_padding=2, crop_probability=0.5, fill="mean", cutout=3, mixup=0.4)
    source = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=options)
    whole = list(itertools.islice(batches(source, batching, seed, Position()), stop + 6))
    position = whole[stop - 1].after if stop else Position()
    for a, b in zip(whole[stop:], itertools.islice(batches(source, batching, seed, position), 6), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
        assert (a.size, a.after) == (b.size, b.after)


@settled
@given(st.integers(1, 30), st.integers(1, 4))
def test_an_epoch_is_one_pass_over_the_data_and_a_batch_is_used_k_times(size, persistency):
    images = np.arange(23, dtype=np.uint8).reshape(23, 1, 1, 1)
    source = InMemory(images, LABELS, [0.0], [1.0])
    updates = persistency * -(-23 // size)
    stream = list(itertools.islice(batches(source, Constant(size, persistency=persistency), 1, Position()), updates))
    assert [b.after.epoch for b in stream] == [0] * (updates - 1) + [1]
    seen = torch.cat([b.inputs.flatten() for b in stream[::persistency]])
    assert sorted((255 * seen).round().int().tolist()) == list(range(23))
    for i, batch in enumerate(stream):
        assert torch.equal(batch.inputs, stream[i - i % persistency].inputs)
