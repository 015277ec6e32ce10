"""Augmentation: the frequency of each random choice, and each image exactly as drawn."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from trainopt.data import Augmentation, Constant, InMemory, Position, batches
from trainopt.data.sources.cutout import Cutout
from trainopt.data.sources.mixup import draw_mixup, mixup
from trainopt.data.sources.order import epoch_generator

MEAN, STD = [0.3, 0.5], [0.2, 0.4]
RNG = np.random.default_rng(0)
COUNT, HEIGHT, WIDTH = 23, 6, 5
IMAGES = RNG.integers(1, 256, (COUNT, HEIGHT, WIDTH, 2), dtype=np.uint8)  # no pixel is zero: padding is visible
LABELS = np.arange(COUNT)
EVERYTHING = Augmentation(flip=0.5, crop_padding=2, crop_probability=0.5, fill="mean", cutout=3, mixup=0.4)


def source(images=IMAGES, labels=LABELS, size=None, **options):
    return InMemory(images, labels, MEAN, STD, size=size, augmentation=Augmentation(**options))


def an_epoch(data, seed=7, epoch=2, *cuts):
    """The batches of an epoch, split at `cuts`, joined."""
    edges = [0, *cuts, len(data)]
    images, targets = zip(*data.epoch(seed, epoch, itertools.pairwise(edges)), strict=True)
    return torch.cat(images), torch.cat(targets)


def is_likely(observed, probabilities):
    """Whether counts agree with probabilities: a chi-square test at 1e-4. Seeds are fixed, so the result is, too.

    At these counts a choice that never occurs, or twice as often, is hundreds of standard deviations off.
    """
    observed, probabilities = np.asarray(observed), np.asarray(probabilities)
    assert observed[probabilities == 0].sum() == 0
    possible = probabilities > 0
    return stats.chisquare(observed[possible], observed.sum() * probabilities[possible]).pvalue > 1e-4


def crops(image, padding):
    """Flip and corner of every crop of a zero-padded image (H, W, 1), by its bytes."""
    corners = {}
    for flipped, one in enumerate((image, image[:, ::-1])):
        padded = np.pad(one, ((padding, padding), (padding, padding), (0, 0)))
        for dy, dx in itertools.product(range(2 * padding + 1), repeat=2):
            crop = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
            corners[crop.tobytes()] = flipped, dy, dx
    assert len(corners) == 2 * (2 * padding + 1) ** 2
    return corners


@pytest.mark.parametrize("options", [{}, {"crop_padding": 4}, {"flip": 0.5, "crop_padding": 4}])
def test_a_set_is_copied_once(options):
    images = np.zeros((500, 32, 32, 2), np.uint8)
    tracemalloc.start()
    try:
        stored = source(images, np.arange(500), **options).stored
        assert tracemalloc.get_traced_memory()[1] < 1.05 * stored.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_and_crops_have_their_probabilities(probability):
    count, padding, flip = 20_000, 2, 0.25
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1)
    options = Augmentation(flip=flip, crop_padding=padding, crop_probability=probability)
    data = InMemory(image.repeat(count, 0), np.zeros(count, int), [0.0], [1.0], augmentation=options)
    known, observed = crops(image[0], padding), np.zeros((2, 5, 5), int)
    for row in (255 * an_epoch(data)[0]).round().to(torch.uint8).numpy():
        observed[known[row.tobytes()]] += 1
    # the joint distribution of flip, row and column
    probabilities = np.full((5, 5), probability / 25)
    probabilities[padding, padding] += 1 - probability
    assert is_likely(observed, np.multiply.outer([1 - flip, flip], probabilities))


@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_batches_are_those_of_a_plain_implementation_of_the_draws(fill, probability):
    """The draws in this order and no others, so that batches stay the same where new augmentations are added."""
    s, side = 2, 3
    options = {"flip": 0.5, "crop_padding": s, "crop_probability": probability, "fill": fill, "cutout": side}
    images, labels = an_epoch(source(**options))
    generator = epoch_generator(7, 2)
    order = torch.randperm(COUNT, generator=generator).tolist()
    flipped = (torch.rand(COUNT, generator=generator) < 0.5).tolist()
    corners = torch.randint(2 * s + 1, (2, COUNT), generator=generator).T.tolist()
    moved = [True] * COUNT if probability == 1 else (torch.rand(COUNT, generator=generator) < 0.5).tolist()
    rows = torch.randint(HEIGHT, (COUNT,), generator=generator).tolist()
    columns = torch.randint(WIDTH, (COUNT,), generator=generator).tolist()
    assert labels.tolist() == order
    for place, index in enumerate(order):
        image = IMAGES[index][:, ::-1] if flipped[place] else IMAGES[index]
        dy, dx = corners[place] if moved[place] else (s, s)
        for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
            result = images[place, :, y, x]
            from_y, from_x = y + dy - s, x + dx - s
            inside = 0 <= from_y < HEIGHT and 0 <= from_x < WIDTH
            pixel = image[from_y, from_x] if inside else np.zeros(2)
            is_cut = abs(y - rows[place]) <= 1 and abs(x - columns[place]) <= 1
            if is_cut or (fill == "mean" and not inside):
                assert result.tolist() == [0, 0]  # exactly
            else:
                assert result.numpy() == pytest.approx((pixel / 255 - MEAN) / STD, abs=2e-6)  # float32


def test_padding_is_of_the_images_and_squares_are_of_the_inputs():
    """Padding is added before images are resized; the side of Cutout counts pixels after that."""
    options = {"crop_padding": 2, "fill": "mean"}
    small, _ = an_epoch(source(**options))
    large, _ = an_epoch(source(size=12, **options))
    assert torch.equal(large, interpolate(small, (12, 12), mode="bilinear", antialias=True))
    holes = an_epoch(source(images=np.full_like(IMAGES, 9), size=12, cutout=5))[0] == 0
    assert holes.sum((1, 2, 3)).max() == 2 * 5 * 5


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_squares_are_torchvisions_erased_rectangles_clipped_to_the_image(side):
    centers = torch.tensor(list(itertools.product(range(HEIGHT), range(WIDTH)))).T
    images = torch.randn(centers.shape[1], 2, HEIGHT, WIDTH)
    expected = images.clone()
    for image, (y, x) in zip(expected, centers.T.tolist(), strict=True):
        top, left = max(y - side // 2, 0), max(x - side // 2, 0)
        bottom, right = min(y - side // 2 + side, HEIGHT), min(x - side // 2 + side, WIDTH)
        v2.functional.erase(image, top, left, bottom - top, right - left, torch.zeros(1, 1, 1), inplace=True)
    Cutout(side, (HEIGHT, WIDTH))(images, centers)
    assert torch.equal(images, expected)


def test_centers_of_squares_are_uniformly_distributed():
    count = 20_000
    white = np.full((count, HEIGHT, WIDTH, 1), 255, np.uint8)
    data = InMemory(white, np.zeros(count, int), [0.0], [1.0], augmentation=Augmentation(cutout=3))
    known = {}
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        plane = np.ones((HEIGHT, WIDTH), np.uint8)
        plane[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 0
        known[plane.tobytes()] = y, x
    assert len(known) == HEIGHT * WIDTH
    observed = np.zeros((HEIGHT, WIDTH), int)
    for row in an_epoch(data)[0].to(torch.uint8).numpy():
        observed[known[row.tobytes()]] += 1
    assert is_likely(observed, np.full((HEIGHT, WIDTH), 1 / (HEIGHT * WIDTH)))


def test_mixup_images_are_weighted_sums_of_the_images_of_the_targets():
    """With one class for each image, weights and partners follow from the targets alone."""
    cuts = 10, 17
    plain, labels = an_epoch(source(flip=0.5, crop_padding=2, cutout=3), 7, 2, *cuts)
    mixed, targets = an_epoch(source(flip=0.5, crop_padding=2, cutout=3, mixup=1.0), 7, 2, *cuts)
    assert targets.shape == (COUNT, COUNT)
    assert targets.sum(1).numpy() == pytest.approx(1, abs=1e-6)
    place = {label: i for i, label in enumerate(labels.tolist())}
    weights = targets[range(COUNT), labels]
    for start, stop in itertools.pairwise((0, *cuts, COUNT)):
        partners = []
        for i in range(start, stop):
            rest = targets[i].clone()
            rest[labels[i]] = 0
            j = place[int(rest.argmax())] if rest.any() else i
            partners.append(j)
            expected = weights[i].double() * plain[i].double() + (1 - weights[i].double()) * plain[j].double()
            assert mixed[i].numpy() == pytest.approx(expected.numpy(), abs=1e-6)  # float32
        assert sorted(partners) == list(range(start, stop))  # each is a partner once
        alone = [i for i, j in zip(range(start, stop), partners, strict=True) if i == j]
        assert len({float(w) for i, w in enumerate(weights[start:stop], start) if i not in alone}) == 1


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_are_beta_distributed_and_partners_uniform(alpha):
    drawn = [draw_mixup(alpha, seed=3, epoch=epoch, start=start, count=5) for epoch in range(40) for start in range(50)]
    weights = np.array([weight for weight, _ in drawn])
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    assert abs(weights.mean() - 0.5) < 5 * (4 * (2 * alpha + 1) * len(weights)) ** -0.5  # standard deviations
    partners = torch.stack([partner for _, partner in drawn])
    for place in range(5):
        assert is_likely(partners[:, place].bincount(minlength=5).numpy(), np.full(5, 0.2))


def test_mixup_is_torchvisions_for_the_same_weight_and_partners():
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 5
    torchvisions = v2.MixUp(num_classes=5)
    torchvisions.make_params = lambda inputs: {"lam": 0.3}
    expected = torchvisions(images.clone(), labels)
    result = mixup(images, labels, 5, 0.3, torch.arange(8).roll(1))
    for ours, theirs in zip(result, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)  # float32


def test_augmentation_does_not_depend_on_the_boundaries_of_batches():
    """Mixup is of a batch, and depends on its boundaries alone."""
    options = {"flip": 0.5, "crop_padding": 2, "crop_probability": 0.5, "fill": "mean", "cutout": 3}
    whole, parts = an_epoch(source(**options)), an_epoch(source(**options), 7, 2, 4, 11, 12)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    mixed = source(**options, mixup=1.0)
    late = next(mixed.epoch(7, 2, [(11, COUNT)]))
    after_others = list(mixed.epoch(7, 2, [(0, 4), (4, 11), (11, COUNT)]))[-1]
    assert torch.equal(late[0], after_others[0])
    assert torch.equal(late[1], after_others[1])


def test_repeats_of_a_batch_are_the_same_images():
    data = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=EVERYTHING)
    first, again, other = itertools.islice(batches(data, Constant(10, persistency=2), 1, Position()), 3)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    second = next(batches(data, Constant(10, persistency=2), 1, Position(0, 0, 1)))
    assert torch.equal(again.inputs, second.inputs)
    assert set(first.targets.unique().tolist()) != set(other.targets.unique().tolist())  # another weight


def test_evaluation_is_never_augmented_and_the_global_generators_are_left_alone():
    state, other = torch.get_rng_state(), np.random.get_state()[1].copy()
    data = InMemory(IMAGES, LABELS, MEAN, STD, augmentation=EVERYTHING)
    list(data.epoch(0, 0, [(0, COUNT)]))
    plain = InMemory(IMAGES, LABELS, MEAN, STD)
    for (a, labels), (b, _) in zip(data.ordered(10), plain.ordered(10), strict=True):
        assert torch.equal(a, b)
        assert labels.dtype == torch.int64
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == other).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"flip=1.5: must be in \[0, 1\]"),
        ({"crop_probability": -1}, r"crop_probability=-1: must be in \[0, 1\]"),
        ({"fill": "white"}, "fill=white: must be one of black, mean"),
        ({"cutout": 6}, "cutout=6: images are 6x5 pixels; give at most 5"),
        ({"mixup": -0.1}, "mixup=-0.1: must be >= 0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        source(**options)
