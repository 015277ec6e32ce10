"""Batches: order and augmentation as functions of (seed, epoch, index), exact positions, exact pixels."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainopt.data import Augmentation, Constant, InMemory, Position, batches
from trainopt.data.sources.order import epoch_generator

MEAN, STD = [0.3, 0.5], [0.2, 0.4]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 5, 7, 2), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 23)


def normalised(image):
    """(H, W, C) uint8 -> (C, H, W) float64, by the definition."""
    return ((image / 255 - MEAN) / STD).transpose(2, 0, 1)


def shifted(image, dy, dx):
    """The window of the black-padded image that begins dy, dx pixels from its padded corner."""
    s = 3
    padded = np.zeros((5 + 2 * s, 7 + 2 * s, 2), np.uint8)
    padded[s:-s, s:-s] = image
    return padded[dy : dy + 5, dx : dx + 7]


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shift", [0, 3])
def test_pixels_are_those_of_a_plain_implementation(flip, shift):
    source = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=flip, crop_padding=shift))
    generator = epoch_generator(7, 2)
    order = torch.randperm(23, generator=generator)
    mirror = torch.rand(23, generator=generator) < flip if flip else torch.zeros(23, dtype=torch.bool)
    steps = torch.randint(2 * shift + 1, (2, 23), generator=generator) if shift else torch.full((2, 23), 3)
    (images, labels), (rest, _) = source.epoch(7, 2, [(0, 10), (10, 23)])
    images = torch.cat([images, rest])
    for position, index in enumerate(order.tolist()):
        image = IMAGES[index][:, ::-1] if mirror[position] else IMAGES[index]
        expected = normalised(shifted(image, *steps[:, position].tolist()))
        assert images[position].numpy() == pytest.approx(expected, abs=2e-6)  # float32
    assert labels.tolist() == LABELS[order[:10]].tolist()


def test_evaluation_sees_every_image_once_in_order_and_unchanged():
    source = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=1.0, crop_padding=3))
    images, labels = (torch.cat(parts) for parts in zip(*source.ordered(10), strict=True))
    assert labels.tolist() == LABELS.tolist()
    assert images.numpy() == pytest.approx(np.stack([normalised(i) for i in IMAGES]), abs=2e-6)


def test_images_are_enlarged_and_channels_last_changes_no_value():
    plain = next(InMemory(IMAGES, LABELS, MEAN, STD, size=16).ordered(23))[0]
    assert plain.shape == (23, 2, 16, 16)
    last = next(InMemory(IMAGES, LABELS, MEAN, STD, size=16, channels_last=True).ordered(23))[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-6)


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


def test_other_seeds_and_epochs_are_other_orders():
    source = InMemory(IMAGES, LABELS, MEAN, STD)

    def order(seed, epoch):
        return next(source.epoch(seed, epoch, [(0, 23)]))[0]

    assert torch.equal(order(3, 1), order(3, 1))
    assert not torch.equal(order(3, 1), order(3, 2))
    assert not torch.equal(order(3, 1), order(4, 1))


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    list(
        InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=0.5, crop_padding=1)).epoch(0, 0, [(0, 23)])
    )
    assert torch.equal(torch.get_rng_state(), before)
