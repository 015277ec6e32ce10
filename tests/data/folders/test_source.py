"""Folders of images: the same batches for any number of workers."""

import os
import random
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from helpers.fixtures import image_folders
from trainopt.data import Augmentation, Constant, DataError, FolderSource, Position, batches, image_folder
from trainopt.data.folders import survey
from trainopt.data.samples import loading
from trainopt.data.sources.mixup import draw_mixup
from trainopt.data.sources.order import epoch_generator
from trainopt.runner.system.isolation import run_isolated


@pytest.fixture
def images(tmp_path):
    image_folders(tmp_path, train=5, val=3, height=40, width=50)
    return tmp_path


AUGMENTATION = Augmentation(flip=0.5, cutout=8, mixup=1.0)


def source(path, workers, augmentation=AUGMENTATION):
    data = image_folder(str(path), size=24, workers=workers, color_jitter=0.2)
    files, count = (data.test, 6) if augmentation is None else (data.train, 10)
    mean, std = [0.5] * 3, [0.25] * 3
    return FolderSource(data, files, np.arange(count), mean, std, augmentation, seed=3, device=torch.device("cpu"))


def some_batches(path, workers, start=(0, 0, 0), count=6):
    stream = batches(source(path, workers), Constant(4), 3, Position(*start))
    return [next(stream) for _ in range(count)]


def test_batches_do_not_depend_on_the_number_of_workers_or_on_a_restart(images):
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    alone = some_batches(images, workers=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    for a, b in zip(alone, some_batches(images, workers=2), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    again = some_batches(images, workers=0, start=alone[3].after, count=2)
    assert torch.equal(again[0].inputs, alone[4].inputs)


@pytest.mark.parametrize(("cores", "expected"), [("1", 1), ("64", 2)])
def test_no_more_processes_read_than_the_run_has_cores(images, monkeypatch, cores, expected):
    images = source(images, 2)
    counts = []
    monkeypatch.setattr(loading, "DataLoader", lambda *_, num_workers, **__: counts.append(num_workers) or [])
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    list(images.ordered(4))
    assert counts == [expected]


def test_a_signal_to_the_group_of_the_run_ends_no_process_that_reads(images):
    """As `timeout` sends it, and a terminal that is lost: the run finishes its step with the data that it needs."""

    def run() -> int:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, lambda *_: None)
        stream = batches(source(images, 2), Constant(4), 3, Position())
        for _ in range(6):  # of two epochs
            next(stream)
            os.killpg(0, signal.SIGTERM)
        return 0

    assert run_isolated(run) == 0


def test_a_signal_that_comes_while_such_a_process_begins_does_not_end_it_either(images, monkeypatch):
    leave_group = loading._leave_group

    def slowly(worker: int) -> None:
        time.sleep(0.5)
        leave_group(worker)

    def run() -> int:
        os.setpgid(0, 0)
        came = []
        signal.signal(signal.SIGTERM, lambda *_: came.append(1))
        stream = source(images, 2).ordered(4)
        threading.Timer(0.2, os.killpg, (0, signal.SIGTERM)).start()
        next(stream)
        return len(came) - 1

    monkeypatch.setattr(loading, "_leave_group", slowly)
    assert run_isolated(run) == 0


def test_cutout_and_mixup_come_after_all_other_transforms(images):
    def batch(**options):
        return next(source(images, 0, augmentation=Augmentation(**options)).epoch(3, 1, [(4, 10)]))

    plain, labels = batch()
    cut, _ = batch(cutout=8)
    holes = (cut == 0).all(1, keepdim=True)
    assert torch.equal(cut, plain.masked_fill(holes, 0.0))
    assert ((holes.sum((1, 2, 3)) >= 16) & (holes.sum((1, 2, 3)) <= 64)).all()  # a quarter where the center is a corner
    mixed, targets = batch(cutout=8, mixup=1.0)
    weight, partner = draw_mixup(1.0, seed=3, epoch=1, start=4, count=6)
    assert torch.allclose(mixed, weight * cut + (1 - weight) * cut[partner], atol=1e-6)  # float32
    expected = weight * torch.eye(2)[labels] + (1 - weight) * torch.eye(2)[labels[partner]]
    assert torch.allclose(targets, expected)
    with pytest.raises(ValueError, match="augmentation.cutout=25: images are 24x24 pixels; give at most 24"):
        batch(cutout=25)
    with pytest.raises(ValueError, match="augmentation.crop_padding: is for data sets in memory"):
        batch(crop_padding=1)


def test_evaluation_sees_every_image_once(images):
    inputs, targets = zip(*source(images, workers=0, augmentation=None).ordered(4), strict=True)
    assert torch.cat(targets).tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.cat(inputs).shape == (6, 3, 24, 24)
    ((second, labels),) = source(images, workers=0, augmentation=None).ordered(4, first=1, every=3)
    assert torch.equal(second, inputs[1])
    assert torch.equal(labels, targets[1])


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("transforms", [[], [torch.nn.Identity()]])
def test_without_random_crops_training_has_the_crop_of_evaluations(images, flip, transforms):
    """Timm's transform of evaluations is the truth."""
    data = image_folder(str(images), size=24, workers=0, scale=[1, 1], ratio=[1, 1])
    augmentation = Augmentation(flip=flip, transforms=transforms)
    mean, std = [0.5] * 3, [0.25] * 3
    training = FolderSource(data, data.train, np.arange(10), mean, std, augmentation, 3, torch.device("cpu"))
    evaluation = create_transform(24, is_training=False, crop_pct=0.875, interpolation="bilinear", mean=mean, std=std)
    expected = torch.stack([evaluation(Image.open(path)) for path, _ in data.train.samples])
    order = torch.randperm(10, generator=epoch_generator(3, 1))
    ((inputs, _),) = training.epoch(3, 1, [(0, 10)])
    assert torch.equal(inputs, expected[order].flip(3) if flip else expected[order])
    ((inputs, _),) = training.ordered(10)
    assert torch.equal(inputs, expected)
    assert training.is_random == bool(flip or transforms)


def test_training_images_in_order_are_without_augmentation(images):
    """As evaluations would have them, also where training crops and flips at random."""
    data = image_folder(str(images), size=24, workers=0)
    sources = [
        FolderSource(data, data.train, np.arange(10), [0.5] * 3, [0.25] * 3, augmentation, 3, torch.device("cpu"))
        for augmentation in (AUGMENTATION, None)
    ]
    assert sources[0].digest() == sources[1].digest()
    for (mine, _), (expected, _) in zip(*(source.ordered(4) for source in sources), strict=True):
        assert torch.equal(mine, expected)


def test_missing_and_damaged_folders_are_named(images, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/train: no such folder; images must lie in"):
        image_folder(str(tmp_path / "nowhere"))
    (images / "val" / "dog").rename(images / "val" / "wolf")
    with pytest.raises(DataError, match="must hold the same classes; wolf is not among"):
        image_folder(str(images))
    (images / "val" / "wolf").rename(images / "val" / "dog")
    (images / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="0.png: cannot be read as an image"):
        some_batches(images, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_ends_an_epoch_with_one_short_line_that_begins_with_its_name(images, workers):
    path = images / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:3000])  # its header is whole
    with pytest.raises(DataError) as error:
        some_batches(images, workers)
    assert str(error.value).startswith(f"{path}: cannot be read as an image (")
    assert len(str(error.value)) < len(str(path)) + 80


def test_full_shared_memory_as_of_a_container_ends_an_epoch_with_one_line(images, monkeypatch):
    def collate(items):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)")

    monkeypatch.setattr(loading, "default_collate", collate)
    with pytest.raises(DataError, match=r"shared memory .*docker run --ipc=host .* or set data\.workers=0"):
        some_batches(images, workers=2)


def test_files_that_cannot_be_read_are_found_by_a_check_and_can_be_left_out(images):
    damaged = images / "train" / "dog" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    (images / "val" / "cat" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"dog/3.png: .*; 1 more cannot be read either; data.on_error=skip"):
        image_folder(str(images), check=True, workers=0)
    left = {workers: image_folder(str(images), on_error="skip", workers=workers) for workers in (0, 2)}
    for data in left.values():
        assert data.skipped == ["train/dog/3.png", "val/cat/1.png"]
        assert (len(data.train.samples), data.train.targets.count(1), len(data.test.samples)) == (9, 4, 5)
        assert data.notes[-1].startswith(f"2 of 16 images are left out: {damaged}: cannot be read as an image (")
    assert left[0].train == left[2].train
    (images / "val" / "cat" / "1.png").write_bytes((images / "val" / "cat" / "2.png").read_bytes())
    again = image_folder(str(images), on_error="skip", decisions=left[0].decisions)
    assert (again.train, again.test, again.decisions) == (left[0].train, left[0].test, left[0].decisions)


def test_of_many_images_a_class_balanced_sample_is_looked_at(images, monkeypatch):
    monkeypatch.setattr(survey, "SAMPLE", 4)

    def looked_at():
        totals = []
        data = image_folder(str(images), workers=0, progress=lambda done, total: totals.append(total))
        return data.white, totals

    damaged = images / "train" / "dog" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:3000])
    assert looked_at() == (None, [8])
    for path in images.rglob("cat/*.png"):
        Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(path)
    assert looked_at() == (4095, [8, 16])  # the value of white follows from all images
