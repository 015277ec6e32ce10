"""CutMix and random erasing: against torchvision for the same draws, and by the frequency of each random choice."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomErasing as Peer
from torchvision.transforms import v2

from trainopt.data import Augmentation, InMemory
from trainopt.data.sources.cutmix import Box, cutmix, draw_cutmix
from trainopt.data.sources.erasing import RandomErasing

SIZE = (12, 10)
COUNT = 40


def a_set(count=COUNT, **options):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (count, *SIZE, 3), dtype=np.uint8)
    # the mean is subtracted, so that no pixel is zero unless it was erased
    return InMemory(images, np.arange(count) % 7, [-1.0] * 3, [1.0] * 3, augmentation=Augmentation(**options))


def an_epoch(data, *cuts, epoch=2):
    edges = [0, *cuts, len(data)]
    images, targets = zip(*data.epoch(7, epoch, itertools.pairwise(edges)), strict=True)
    return torch.cat(images), torch.cat(targets)


def test_cutmix_is_torchvisions_for_the_same_box_and_partners():
    images, labels = torch.rand(6, 3, *SIZE), torch.tensor([0, 1, 2, 2, 1, 0])
    box = Box(2, 9, 1, 5)
    area = (box.bottom - box.top) * (box.right - box.left)
    params = {
        "labels": labels,
        "batch_size": 6,
        "box": (box.left, box.top, box.right, box.bottom),
        "lam_adjusted": 1 - area / (SIZE[0] * SIZE[1]),
    }
    peer = v2.CutMix(num_classes=3)
    expected, expected_targets = peer.transform(images, params), peer.transform(labels, params)
    mixed, targets = cutmix(images.clone(), labels, 3, box, torch.arange(6).roll(1))
    assert torch.equal(mixed, expected)
    torch.testing.assert_close(targets, expected_targets, rtol=0, atol=1e-6)


def test_boxes_are_those_of_the_paper():
    """With a large alpha lambda is 1/2: the sides are 1 / sqrt(2) of the image's, the centers uniform."""
    boxes = [draw_cutmix(1e8, 3, 0, start, 4, (100, 40))[0] for start in range(3000)]
    inside = [b for b in boxes if b.top > 0 and b.bottom < 100]
    assert {b.bottom - b.top for b in inside} == {70}
    centers = np.array([b.bottom - 35 if b.top == 0 else b.top + 35 for b in boxes])
    assert stats.chisquare(np.bincount(centers, minlength=100)).pvalue > 1e-4
    columns = np.array([b.right - 14 if b.left == 0 else b.left + 14 for b in boxes])
    assert stats.chisquare(np.bincount(columns, minlength=40)).pvalue > 1e-4


def test_what_is_cut_out_follows_the_beta_distribution():
    """The side of a box that is not clipped is sqrt(1 - lambda) of the image's."""
    alpha, length = 0.7, 10**6
    boxes = [draw_cutmix(alpha, 5, 1, start, 2, (length, length))[0] for start in range(4000)]
    lambdas = 1 - (np.array([b.bottom - b.top for b in boxes if b.top > 0 and b.bottom < length]) / length) ** 2
    # a box of side s is unclipped with probability 1 - s: weights of lambda in what is left
    grid = np.linspace(0.0005, 0.9995, 20001)
    density = stats.beta(alpha, alpha).pdf(grid) * (1 - np.sqrt(1 - grid))
    distribution = np.cumsum(density) / density.sum()
    assert stats.kstest(lambdas, lambda x: np.interp(x, grid, distribution)).pvalue > 1e-4


def test_partners_are_a_permutation_that_is_drawn_anew_for_every_batch():
    draws = [draw_cutmix(1.0, 0, epoch, start, 8, SIZE)[1].tolist() for epoch in (0, 1) for start in (0, 8)]
    assert all(sorted(partner) == list(range(8)) for partner in draws)
    assert len({tuple(partner) for partner in draws}) == 4
    assert draw_cutmix(1.0, 0, 1, 8, 8, SIZE)[1].tolist() == draws[-1]


def test_images_of_an_epoch_get_boxes_of_the_images_of_their_targets():
    plain, labels = an_epoch(a_set(), 20)
    mixed, targets = an_epoch(a_set(cutmix=1.0), 20)
    assert (targets.sum(1) - 1).abs().max() < 1e-6
    for image, target, original, label in zip(mixed, targets, plain, labels, strict=True):
        kept = (image == original).all(0)
        share = kept.float().mean().item()
        assert target[label] >= share - 1e-5  # a partner of the same class adds to it
        assert share > 0 or target[label] < 1


def test_with_both_a_batch_has_mixup_or_cutmix():
    """CutMix copies pixels, mixup makes new ones."""
    data = a_set(count=400, mixup=1.0, cutmix=1.0)
    pixels = set(an_epoch(a_set(count=400))[0].unique().tolist())
    kinds = [
        set(images.unique().tolist()) <= pixels
        for images, _ in data.epoch(7, 0, [(start, start + 4) for start in range(0, 400, 4)])
    ]
    assert stats.binomtest(sum(kinds), len(kinds), 0.5).pvalue > 1e-4


def rectangles(images):
    """(top, bottom, left, right) of the zeros in each image, which must be a rectangle; None where it has none."""
    boxes = []
    for image in images:
        zero = (image == 0).all(0)
        if not zero.any():
            boxes.append(None)
            continue
        rows, columns = zero.any(1).nonzero()[:, 0], zero.any(0).nonzero()[:, 0]
        top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
        assert zero[top:bottom, left:right].all()
        assert zero.sum() == (bottom - top) * (right - left)
        boxes.append((top, bottom, left, right))
    return boxes


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_erasing_has_its_probability_and_zeroes_one_rectangle(probability):
    images, _ = an_epoch(a_set(count=800, random_erasing=probability))
    erased = [r for r in rectangles(images) if r is not None]
    if probability in (0, 1):
        assert len(erased) == 800 * probability
    assert stats.binomtest(len(erased), 800, probability).pvalue > 1e-4


def test_rectangles_are_distributed_as_torchvisions():
    side, count = 64, 3000
    erasing = RandomErasing(1.0, count, (side, side), torch.Generator().manual_seed(0))
    images = torch.ones(count, 1, side, side)
    erasing(images, 0)
    ours = np.array(rectangles(images))
    torch.manual_seed(0)
    image = torch.ones(1, side, side)
    drawn = [Peer.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4] for _ in range(count)]
    theirs = np.array([(top, top + height, left, left + width) for top, left, height, width in drawn])
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-4
    areas = [(r[:, 1] - r[:, 0]) * (r[:, 3] - r[:, 2]) for r in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-4


def test_erasing_does_not_depend_on_the_boundaries_of_batches():
    one, _ = an_epoch(a_set(random_erasing=0.5, flip=0.5))
    other, _ = an_epoch(a_set(random_erasing=0.5, flip=0.5), 3, 17, 30)
    assert torch.equal(one, other)
    assert not torch.equal(one, an_epoch(a_set(random_erasing=0.5, flip=0.5), epoch=3)[0])


def test_what_is_drawn_besides_does_not_change():
    plain, _ = an_epoch(a_set(flip=0.5, crop_padding=2, cutout=3))
    erased, _ = an_epoch(a_set(flip=0.5, crop_padding=2, cutout=3, random_erasing=1.0))
    kept = erased != 0
    assert torch.equal(erased[kept], plain[kept])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cutmix": -1}, "cutmix=-1: must be >= 0"), ({"random_erasing": 2}, r"random_erasing=2: must be in \[0, 1\]")],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
