"""Folders of images: the same batches for any number of workers."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from trainopt.data import Augmentation, Constant, DataError, FolderSource, Position, batches, image_folder
from trainopt.data.folders import source as folders
from trainopt.data.sources.mixup import draw_mixup
from trainopt.runner.system.isolation import run_isolated


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 5), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path


AUGMENTATION = Augmentation(flip=0.5, cutout=8, mixup=1.0)


def source(path, workers, augmentation=AUGMENTATION):
    data = image_folder(str(path), size=24, workers=workers, color_jitter=0.2)
    part, count = ("test", 6) if augmentation is None else ("train", 10)
    mean, std = [0.5] * 3, [0.25] * 3
    return FolderSource(data, part, np.arange(count), mean, std, augmentation, seed=3, device=torch.device("cpu"))


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
    counts = []
    monkeypatch.setattr(folders, "DataLoader", lambda *_, num_workers, **__: counts.append(num_workers) or [])
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    list(source(images, 2).ordered(4))
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


def test_missing_and_damaged_folders_are_named(images, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/train: no such folder; images must lie in"):
        image_folder(str(tmp_path / "nowhere"))
    (images / "val" / "dog").rename(images / "val" / "wolf")
    with pytest.raises(DataError, match="must hold the same classes; dog is in one of them only"):
        image_folder(str(images))
    (images / "val" / "wolf").rename(images / "val" / "dog")
    (images / "train" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="0.png: cannot be read as an image"):
        some_batches(images, workers=0)
