"""Images in memory: pixels as a plain implementation computes them, and orders that depend on (seed, epoch) alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainopt.data import Augmentation, InMemory
from trainopt.data.sources.devices import to_device
from trainopt.data.sources.order import epoch_generator

MEAN, STD = [0.3, 0.5], [0.2, 0.4]
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 5, 7, 2), dtype=np.uint8)
LABELS = RNG.integers(0, 4, 23)


def normalised(image):
    """(H, W, C) uint8 -> (C, H, W) float64, by the definition."""
    return ((image / 255 - MEAN) / STD).transpose(2, 0, 1)


def cropped(image, dy, dx):
    """The crop of the zero-padded image that begins dy, dx pixels from its corner."""
    s = 3
    padded = np.zeros((5 + 2 * s, 7 + 2 * s, 2), np.uint8)
    padded[s:-s, s:-s] = image
    return padded[dy : dy + 5, dx : dx + 7]


@pytest.mark.parametrize("flip", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("padding", [0, 3])
def test_pixels_are_those_of_a_plain_implementation(flip, padding):
    source = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=flip, crop_padding=padding))
    generator = epoch_generator(7, 2)
    order = torch.randperm(23, generator=generator)
    flipped = torch.rand(23, generator=generator) < flip if flip else torch.zeros(23, dtype=torch.bool)
    corners = torch.randint(2 * padding + 1, (2, 23), generator=generator) if padding else torch.full((2, 23), 3)
    (images, labels), (rest, _) = source.epoch(7, 2, [(0, 10), (10, 23)])
    images = torch.cat([images, rest])
    for position, index in enumerate(order.tolist()):
        image = IMAGES[index][:, ::-1] if flipped[position] else IMAGES[index]
        expected = normalised(cropped(image, *corners[:, position].tolist()))
        assert images[position].numpy() == pytest.approx(expected, abs=2e-6)  # float32
    assert labels.tolist() == LABELS[order[:10]].tolist()


def test_evaluation_sees_every_image_once_in_order_and_unchanged():
    source = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=1.0, crop_padding=3))
    images, labels = (torch.cat(parts) for parts in zip(*source.ordered(10), strict=True))
    assert labels.tolist() == LABELS.tolist()
    assert images.numpy() == pytest.approx(np.stack([normalised(i) for i in IMAGES]), abs=2e-6)


def test_images_are_resized_and_channels_last_changes_no_value():
    plain = next(InMemory(IMAGES, LABELS, MEAN, STD, size=16).ordered(23))[0]
    assert plain.shape == (23, 2, 16, 16)
    last = next(InMemory(IMAGES, LABELS, MEAN, STD, size=16, channels_last=True).ordered(23))[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, last, atol=1e-6)


def test_other_seeds_and_epochs_give_other_orders():
    source = InMemory(IMAGES, LABELS, MEAN, STD)

    def order(seed, epoch):
        return next(source.epoch(seed, epoch, [(0, 23)]))[0]

    assert torch.equal(order(3, 1), order(3, 1))
    assert not torch.equal(order(3, 1), order(3, 2))
    assert not torch.equal(order(3, 1), order(4, 1))


@pytest.mark.parametrize(("here", "device"), [("cuda:0", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu:0")])
def test_a_batch_that_is_on_the_device_stays_as_it_is(here, device):
    """A tensor on `cuda` says that it is on `cuda:0`; a copy would pin it, which is for tensors of the host alone."""
    batch = SimpleNamespace(device=torch.device(here)), SimpleNamespace(device=torch.device(here))
    assert to_device(*batch, torch.device(device)) == batch


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    list(
        InMemory(IMAGES, LABELS, MEAN, STD, augmentation=Augmentation(flip=0.5, crop_padding=1)).epoch(0, 0, [(0, 23)])
    )
    assert torch.equal(torch.get_rng_state(), before)
