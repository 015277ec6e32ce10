"""Transforms of one image at a time: torchvision's pixels, the same for any number of workers and after a restart."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.transforms import v2

from helpers.cli import refusal
from helpers.fixtures import image_folders
from trainopt.data import (
    Augmentation,
    AugMix,
    Constant,
    DataError,
    FolderSource,
    InMemory,
    Position,
    RandAugment,
    TransformedInMemory,
    TrivialAugment,
    batches,
    image_folder,
)
from trainopt.data.samples.loading import processes, worker_count
from trainopt.data.sources.order import epoch_generator
from trainopt.runner.config.options import shipped
from trainopt.runner.config.overrides import hint
from trainopt.runner.data_sets.sets import build_augmentation

MEAN, STD = [0.5, 0.25, 0.75], [0.25, 0.5, 0.125]  # of float32, so that pixels are found again exactly
SPANS = [(0, 13), (13, 30), (30, 40)]
SEED, EPOCH = 3, 2


def images(dtype=np.uint8):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (40, 8, 8, 3)).astype(dtype), rng.integers(0, 4, 40)


def source(augmentation, workers=0, **options):
    pixels, targets = images()
    normalisation = {"mean": MEAN, "std": STD, "num_classes": 4}
    return TransformedInMemory(pixels, targets, augmentation=augmentation, workers=workers, **normalisation, **options)


def pixels_of(batch):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return (batch * std + mean).mul(255).round().to(torch.uint8)


def test_there_are_no_more_processes_than_cores_that_the_run_may_use(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    assert [processes(1), worker_count(4, 0.1), worker_count(None, 9.0), worker_count(None, 0.1)] == [1, 2, 2, 0]


FILL = [128, 64, 191]
POLICIES = [
    (RandAugment(), v2.RandAugment()),
    (RandAugment(num_ops=3, magnitude=20, fill="mean"), v2.RandAugment(3, 20, fill=FILL)),
    (TrivialAugment(interpolation="bilinear"), v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR)),
    (AugMix(severity=5, mixture_width=2), v2.AugMix(severity=5, mixture_width=2)),
    (
        Augmentation(transforms=[v2.RandomRotation(30), v2.ColorJitter(0.5)]),
        v2.Compose([v2.RandomRotation(30), v2.ColorJitter(0.5)]),
    ),
]


@pytest.mark.parametrize(("augmentation", "transform"), POLICIES, ids=lambda part: type(part).__name__)
def test_pixels_are_those_of_torchvision_with_the_seed_of_the_image(augmentation, transform):
    state = torch.get_rng_state()
    found = torch.cat([pixels_of(batch) for batch, _ in source(augmentation).epoch(SEED, EPOCH, SPANS)])
    assert torch.equal(torch.get_rng_state(), state)
    order = torch.randperm(40, generator=epoch_generator(SEED, EPOCH)).tolist()
    stored = torch.from_numpy(images()[0]).permute(0, 3, 1, 2)
    changed = 0
    for image, index in zip(found, order, strict=True):
        torch.manual_seed(int(np.random.SeedSequence([SEED, EPOCH, index]).generate_state(3)[2]))
        assert torch.equal(image, transform(stored[index].clone()))
        changed += not torch.equal(image, stored[index])
    assert changed > 10


@pytest.mark.parametrize("fill", ["black", "mean"])
def test_what_is_done_with_batches_comes_afterwards_and_is_what_it_is_without_transforms(fill):
    options = {
        "flip": 0.5,
        "crop_padding": 2,
        "crop_probability": 0.7,
        "cutout": 3,
        "mixup": 0.3,
        "random_erasing": 0.4,
    }
    plain = Augmentation(**options, fill=fill)
    pixels, targets = images()
    expected = InMemory(pixels, targets, MEAN, STD, augmentation=plain, num_classes=4)
    found = source(Augmentation(**options, fill=fill, transforms=[torch.nn.Identity()]))
    for one, other in zip(expected.epoch(SEED, EPOCH, SPANS), found.epoch(SEED, EPOCH, SPANS), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for one, other in zip(expected.ordered(7), found.ordered(7), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers_or_on_a_restart(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "3")
    augmentation = RandAugment(magnitude=20, flip=0.5, crop_padding=1)

    def some(workers, start=(0, 0, 0), count=6):
        stream = batches(source(augmentation, workers), Constant(16), SEED, Position(*start))
        return [next(stream) for _ in range(count)]

    alone = some(0)
    for workers in (1, 3):
        for one, other in zip(alone, some(workers), strict=True):
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
    assert torch.equal(some(0, alone[3].after, 2)[0].inputs, alone[4].inputs)  # in the middle of an epoch


def test_operations_on_whole_batches_leave_worker_processes_their_cores(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    before, counts = torch.get_num_threads(), []
    crop = TransformedInMemory._cropped
    monkeypatch.setattr(
        TransformedInMemory, "_cropped", lambda *args: counts.append(torch.get_num_threads()) or crop(*args)
    )
    try:
        torch.set_num_threads(3)
        for workers in (2, 0):
            list(source(RandAugment(crop_padding=1), workers).epoch(SEED, EPOCH, SPANS[:1]))
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert counts == [1, 3]


def test_images_of_folders_are_transformed_after_crop_and_flip(tmp_path):
    image_folders(tmp_path, train=4, val=2, height=12, width=12)
    data = image_folder(str(tmp_path), size=8, workers=0)

    def batch(**options):
        options = {"mean": [0.0], "std": [1.0]} | options
        three = {key: 3 * options.pop(key) for key in ("mean", "std")}
        augmentation = Augmentation(flip=0.5, **options)
        cpu = torch.device("cpu")
        files = FolderSource(data, data.train, np.arange(8), augmentation=augmentation, seed=SEED, device=cpu, **three)
        return next(files.epoch(SEED, EPOCH, [(0, 8)]))[0]

    plain, inverted = batch(), batch(transforms=[v2.RandomInvert(p=1.0)])
    assert torch.equal(inverted.mul(255).round(), 255 - plain.mul(255).round())
    assert torch.equal(batch(transforms=[torch.nn.Identity()]), plain)


V2 = "augmentation.transforms=[{{_target_: torchvision.transforms.v2.{}}}]"


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (V2.format("RandomRotatoin, degrees: 9"), "did you mean torchvision.transforms.v2.RandomRotation?"),
        (V2.format("RandomRotation, degree: 9"), "augmentation.transforms[0].degree: unknown key"),
        (V2.format("RandomZoomOut, p: 1.0"), "RandomZoomOut returns uint8 [1, 24, 24], must return uint8 [1, 8, 8]"),
        (V2.format("ToDtype, dtype: null"), "augmentation.transforms[0]"),
        (V2.format("MixUp, num_classes: 10"), "; augmentation.mixup does this, a batch at a time"),
        (V2.format("RandomIoUCrop"), "RandomIoUCrop cannot transform an image of 8 bits alone"),
        (
            "augmentation.transforms=[{_target_: data.sources.test_transforms.unpicklable}]",
            "worker processes cannot get",
        ),
        ("augmentation.transforms=[RandomRotation]", "must be a list of section"),
        ("augmentation.transforms=[{degrees: 3}]", "augmentation.transforms[0]._target_ is missing"),
        ("augmentation=randaugment augmentation.magnitude=31", "augmentation.magnitude=31: must be in [0, 31)"),
        (
            "augmentation=randaugment augmentation.interpolation=cubic",
            "interpolation=cubic: must be one of nearest, bil",
        ),
        ("augmentation=augmix augmentation.severity=11", "augmentation.severity=11: must be in [1, 10]"),
        ("augmentation=trivialaugment augmentation.num_magnitude_bins=0", "num_magnitude_bins=0: must be >= 1"),
        ("data.workers=2", "data.workers=2: the data is in memory, and nothing transforms one image at a time"),
        (
            "augmentation=randaugment data=breast_cancer",
            "augmentation._target_=trainopt.data.RandAugment: is for images",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(typed, message):
    words = [typed] if "{" in typed else typed.split()
    assert message in refusal("model=mlp", *words)


def unpicklable():
    return lambda image: image


def test_float_images_are_refused():
    pixels, targets = images(np.float32)
    with pytest.raises(ValueError, match="transforms are for images of 8 bits, and these are float32"):
        TransformedInMemory(pixels, targets, MEAN, STD, augmentation=RandAugment())


class SometimesSmaller:
    """Crops images whose first pixel is not black, unlike the ones that transforms are tried on."""

    def __call__(self, image):
        return image[..., 1:] if image.any() else image


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_transform_does_to_some_images_only_ends_an_epoch_with_one_line(workers):
    with pytest.raises(DataError) as error:
        list(source(Augmentation(transforms=[SometimesSmaller()]), workers).epoch(SEED, EPOCH, SPANS))
    assert str(error.value).startswith(
        "augmentation: SometimesSmaller returns uint8 [3, 8, 7], must return uint8 [3, 8, 8]"
    )


def built_augmentation(content):
    return build_augmentation(OmegaConf.create({"augmentation": content})).image_transforms([0.5])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("randaugment", v2.RandAugment()), ("trivialaugment", v2.TrivialAugmentWide()), ("augmix", v2.AugMix())],
)
def test_policies_and_their_defaults_are_those_of_torchvision(name, theirs):
    def values(transform):
        named = {key: value for key, value in vars(transform).items() if key[0] != "_"}
        return named | {"interpolation": v2.InterpolationMode(named["interpolation"])}

    (ours,) = built_augmentation(shipped(f"augmentation/{name}.yaml"))
    assert type(ours) is type(theirs)
    assert values(ours) == values(theirs)


def test_transforms_are_nested_as_hydra_nests_them():
    blur = {"_target_": "torchvision.transforms.v2.GaussianBlur", "kernel_size": 3}
    apply = {"_target_": "torchvision.transforms.v2.RandomApply", "transforms": [blur], "p": 0.3}
    (transform,) = built_augmentation({**shipped("augmentation/none.yaml"), "transforms": [apply]})
    assert isinstance(transform, v2.RandomApply)
    assert isinstance(transform.transforms[0], v2.GaussianBlur)


def test_names_of_other_programs_lead_here():
    assert hint("aa", "rand-m9-mstd0.5") == "; did you mean augmentation=randaugment?"
    assert hint("hflip", "0.5") == "; did you mean augmentation.flip=0.5?"
