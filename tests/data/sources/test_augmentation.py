"""Augmentation: each choice as often as it should come, and each image exactly what was drawn for it."""

import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from trainopt.data import Augmentation, Constant, InMemory, Position, batches
from trainopt.data.sources.augmentation import Cutout, mix_up, mixture
from trainopt.data.sources.order import epoch_generator

MEAN, STD = [0.3, 0.5], [0.2, 0.4]
RNG = np.random.default_rng(0)
COUNT, HEIGHT, WIDTH = 23, 6, 5
IMAGES = RNG.integers(1, 256, (COUNT, HEIGHT, WIDTH, 2), dtype=np.uint8)  # none is black: padding stands out
LABELS = np.arange(COUNT)
EVERYTHING = Augmentation(flip=0.5, crop_padding=2, crop_probability=0.5, fill="mean", cutout=3, mixup=0.4)


def source(images=IMAGES, labels=LABELS, size=None, **options):
    return InMemory(images, labels, MEAN, STD, size=size, augmentation=Augmentation(**options))


def an_epoch(data, seed=7, epoch=2, *cuts):
    """All batches of an epoch that is cut into batches there, together."""
    edges = [0, *cuts, len(data)]
    images, targets = zip(*data.epoch(seed, epoch, itertools.pairwise(edges)), strict=True)
    return torch.cat(images), torch.cat(targets)


def likely(observed, shares):
    """Whether counts fit their shares: a chi-square test at 1e-4, which seeds fixed once and for all pass or not.

    A choice that never comes, or comes twice as often, lies hundreds of standard deviations off at these counts.
    """
    observed, shares = np.asarray(observed), np.asarray(shares)
    assert observed[shares == 0].sum() == 0
    there = shares > 0
    return stats.chisquare(observed[there], observed.sum() * shares[there]).pvalue > 1e-4


def windows(image, shift):
    """By its bytes, the mirroring and the shift of every window of a black-padded image (H, W, 1)."""
    found = {}
    for mirrored, one in enumerate((image, image[:, ::-1])):
        padded = np.pad(one, ((shift, shift), (shift, shift), (0, 0)))
        for dy, dx in itertools.product(range(2 * shift + 1), repeat=2):
            window = padded[dy : dy + image.shape[0], dx : dx + image.shape[1]]
            found[window.tobytes()] = mirrored, dy, dx
    assert len(found) == 2 * (2 * shift + 1) ** 2
    return found


@pytest.mark.parametrize("options", [{}, {"crop_padding": 4}, {"flip": 0.5, "crop_padding": 4}])
def test_a_set_is_copied_once_to_where_it_stays(options):
    images = np.zeros((500, 32, 32, 2), np.uint8)
    tracemalloc.start()
    try:
        stored = source(images, np.arange(500), **options).stored
        assert tracemalloc.get_traced_memory()[1] < 1.05 * stored.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_every_mirroring_and_shift_comes_as_often_as_it_should_and_nothing_else_does(probability):
    count, shift, flip = 20_000, 2, 0.25
    image = np.arange(1, 26, dtype=np.uint8).reshape(1, 5, 5, 1)
    options = Augmentation(flip=flip, crop_padding=shift, crop_probability=probability)
    data = InMemory(image.repeat(count, 0), np.zeros(count, int), [0.0], [1.0], augmentation=options)
    known, observed = windows(image[0], shift), np.zeros((2, 5, 5), int)
    for row in (255 * an_epoch(data)[0]).round().to(torch.uint8).numpy():
        observed[known[row.tobytes()]] += 1
    # the table of all three together: that each comes as often as it should, whatever the others
    shares = np.full((5, 5), probability / 25)
    shares[shift, shift] += 1 - probability
    assert likely(observed, np.multiply.outer([1 - flip, flip], shares))


@pytest.mark.parametrize("padding", ["black", "mean"])
@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_batches_are_those_of_a_plain_implementation_of_the_draws(padding, probability):
    """The draws in this order and no others: configurations from before new ones came keep their batches."""
    s, side = 2, 3
    options = {"flip": 0.5, "crop_padding": s, "crop_probability": probability, "fill": padding, "cutout": side}
    images, labels = an_epoch(source(**options))
    generator = epoch_generator(7, 2)
    order = torch.randperm(COUNT, generator=generator).tolist()
    mirrored = (torch.rand(COUNT, generator=generator) < 0.5).tolist()
    corners = torch.randint(2 * s + 1, (2, COUNT), generator=generator).T.tolist()
    moved = [True] * COUNT if probability == 1 else (torch.rand(COUNT, generator=generator) < 0.5).tolist()
    rows = torch.randint(HEIGHT, (COUNT,), generator=generator).tolist()
    columns = torch.randint(WIDTH, (COUNT,), generator=generator).tolist()
    assert labels.tolist() == order
    for place, index in enumerate(order):
        image = IMAGES[index][:, ::-1] if mirrored[place] else IMAGES[index]
        dy, dx = corners[place] if moved[place] else (s, s)
        for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
            found = images[place, :, y, x]
            from_y, from_x = y + dy - s, x + dx - s
            inside = 0 <= from_y < HEIGHT and 0 <= from_x < WIDTH
            pixel = image[from_y, from_x] if inside else np.zeros(2)
            is_cut = abs(y - rows[place]) <= 1 and abs(x - columns[place]) <= 1
            if is_cut or (padding == "mean" and not inside):
                assert found.tolist() == [0, 0]  # exactly
            else:
                assert found.numpy() == pytest.approx((pixel / 255 - MEAN) / STD, abs=2e-6)  # float32


def test_padding_and_squares_are_of_the_size_that_the_network_sees():
    """Padding is of the images, before they are resized; squares are of the inputs."""
    options = {"crop_padding": 2, "fill": "mean"}
    small, _ = an_epoch(source(**options))
    large, _ = an_epoch(source(size=12, **options))
    assert torch.equal(large, interpolate(small, (12, 12), mode="bilinear", antialias=True))
    holes = an_epoch(source(images=np.full_like(IMAGES, 9), size=12, cutout=5))[0] == 0
    assert holes.sum((1, 2, 3)).max() == 2 * 5 * 5


@pytest.mark.parametrize("side", [1, 2, 3, 5])
def test_squares_are_torchvisions_erased_rectangles_cut_off_at_the_edges(side):
    centres = torch.tensor(list(itertools.product(range(HEIGHT), range(WIDTH)))).T
    images = torch.randn(centres.shape[1], 2, HEIGHT, WIDTH)
    expected = images.clone()
    for image, (y, x) in zip(expected, centres.T.tolist(), strict=True):
        top, left = max(y - side // 2, 0), max(x - side // 2, 0)
        bottom, right = min(y - side // 2 + side, HEIGHT), min(x - side // 2 + side, WIDTH)
        v2.functional.erase(image, top, left, bottom - top, right - left, torch.zeros(1, 1, 1), inplace=True)
    Cutout(side, (HEIGHT, WIDTH))(images, centres)
    assert torch.equal(images, expected)


def test_every_centre_of_a_square_comes_as_often_as_it_should():
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
    assert likely(observed, np.full((HEIGHT, WIDTH), 1 / (HEIGHT * WIDTH)))


def test_mixtures_are_weighted_sums_of_the_images_that_the_targets_name():
    """With a class for each image the targets tell weights and partners; nothing else is looked at."""
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
def test_weights_of_mixtures_are_beta_distributed_and_partners_uniform(alpha):
    drawn = [mixture(alpha, seed=3, epoch=epoch, start=start, count=5) for epoch in range(40) for start in range(50)]
    weights = np.array([weight for weight, _ in drawn])
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-4
    assert abs(weights.mean() - 0.5) < 5 * (4 * (2 * alpha + 1) * len(weights)) ** -0.5  # standard deviations
    partners = torch.stack([partner for _, partner in drawn])
    for place in range(5):
        assert likely(partners[:, place].bincount(minlength=5).numpy(), np.full(5, 0.2))


def test_mixtures_are_torchvisions_for_the_same_numbers():
    images, labels = torch.randn(8, 3, 4, 4), torch.arange(8) % 5
    theirs = v2.MixUp(num_classes=5)
    theirs.make_params = lambda inputs: {"lam": 0.3}
    expected = theirs(images.clone(), labels)
    found = mix_up(images, labels, 5, 0.3, torch.arange(8).roll(1))
    for ours, other in zip(found, expected, strict=True):
        assert torch.allclose(ours, other, atol=1e-6)  # float32


def test_augmentation_does_not_depend_on_where_batches_begin():
    """But for mixtures, which are of a batch: those depend on nothing else."""
    options = {"flip": 0.5, "crop_padding": 2, "crop_probability": 0.5, "fill": "mean", "cutout": 3}
    whole, parts = an_epoch(source(**options)), an_epoch(source(**options), 7, 2, 4, 11, 12)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    mixed = source(**options, mixup=1.0)
    late = next(mixed.epoch(7, 2, [(11, COUNT)]))
    after_others = list(mixed.epoch(7, 2, [(0, 4), (4, 11), (11, COUNT)]))[-1]
    assert torch.equal(late[0], after_others[0])
    assert torch.equal(late[1], after_others[1])


def test_repeats_of_a_batch_are_the_same_images_and_other_batches_other_ones():
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
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        source(**options)
