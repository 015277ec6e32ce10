"""Features in place of images: the same order; digests; which augmentations are random."""

import numpy as np
import pytest
import torch

from trainopt.data import (
    Augmentation,
    Constant,
    DatasetSource,
    Features,
    InMemory,
    Position,
    Reconstruction,
    batches,
    digest_of,
    torch_datasets,
)
from trainopt.data.sources.order import epoch_generator

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (23, 4, 4, 1), dtype=np.uint8)
LABELS = np.arange(23)
IMAGE_SET = {"images": IMAGES, "targets": LABELS, "mean": [0.3], "std": [0.2]}


def test_features_come_in_the_order_of_the_images():
    images = InMemory(**IMAGE_SET)
    values = torch.cat([x for x, _ in images.ordered(10)]).flatten(1)
    features = Features(values, torch.from_numpy(LABELS))
    batching, start = Constant(size=5, persistency=2), Position(0, 10, 1)
    one, two = batches(images, batching, 3, start), batches(features, batching, 3, start)
    for _ in range(20):  # two epochs
        a, b = next(one), next(two)
        assert torch.equal(a.inputs.flatten(1), b.inputs)
        assert (a.targets.tolist(), *a[2:]) == (b.targets.tolist(), *b[2:])
    assert torch.equal(torch.cat([x for x, _ in features.ordered(7)]), values)
    assert torch.cat([y for _, y in features.ordered(7)]).tolist() == LABELS.tolist()


def test_of_ordered_batches_some_are_read():
    samples = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES).float(), torch.from_numpy(LABELS))
    data = torch_datasets({"train": samples, "test": samples})
    images = InMemory(**IMAGE_SET)
    for source in (images, Features(torch.rand(23, 3), images.targets), DatasetSource(data, "test", LABELS)):
        for every in (source, Reconstruction(source)):
            whole = list(every.ordered(5))
            for first, step in ((0, 2), (1, 2), (2, 3), (5, 7)):
                some = list(every.ordered(5, first, step))
                assert len(some) == len(whole[first::step])
                for batch, expected in zip(some, whole[first::step], strict=True):
                    assert all(map(torch.equal, batch, expected))


@pytest.mark.parametrize(
    ("options", "is_random"),
    [
        ({}, False),
        ({"flip": 0.1}, True),
        ({"crop_padding": 1}, True),
        ({"crop_padding": 1, "crop_probability": 0.0, "fill": "mean"}, False),
        ({"cutout": 2}, True),
        ({"mixup": 0.5}, True),
    ],
)
def test_augmentation_is_random_where_images_differ_from_epoch_to_epoch(options, is_random):
    source = InMemory(**IMAGE_SET, augmentation=Augmentation(**options), num_classes=23)
    assert source.is_random is is_random
    (one, _), (two, _) = (next(source.epoch(0, epoch, [(0, 23)])) for epoch in (0, 1))
    orders = (torch.randperm(23, generator=epoch_generator(0, epoch)).argsort() for epoch in (0, 1))
    one, two = (images[order] for images, order in zip((one, two), orders, strict=True))
    assert torch.equal(one, two) is not is_random


def test_a_digest_depends_on_what_features_depend_on():
    other_image, swapped = IMAGES.copy(), IMAGES[::-1]
    other_image[5, 2, 2, 0] ^= 1
    changes = [{}, {"images": other_image}, {"images": swapped}, {"mean": [0.31]}, {"std": [0.21]}, {"size": 8}]
    changes += [{"images": IMAGES.reshape(23, 2, 8, 1)}, {"images": IMAGES[:-1], "targets": LABELS[:-1]}]
    digests = [InMemory(**{**IMAGE_SET, **change}).digest() for change in changes]
    assert len(set(digests)) == len(changes)
    assert InMemory(**{**IMAGE_SET, "targets": LABELS[::-1].copy()}).digest() == digests[0]


def test_a_digest_is_of_values_and_not_of_their_layout():
    x = torch.randn(2, 3, 4, 4)
    assert digest_of(x) == digest_of(x.contiguous(memory_format=torch.channels_last))
    assert digest_of(x) != digest_of(x.view(3, 2, 4, 4))
    assert digest_of(torch.tensor(1.0)) != digest_of(torch.tensor(1.0).view(torch.int32))
