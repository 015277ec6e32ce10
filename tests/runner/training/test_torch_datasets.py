"""torch Datasets of the user: read as they are, in an order and with random numbers that workers do not change."""

import sys
from importlib import import_module
from itertools import islice

import numpy as np
import pytest
import torch
from joblib import cpu_count

from helpers.cli import built, forked, refusal
from trainopt.data import DataError, torch_datasets

MINE = '''
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split

generator = np.random.default_rng(0)
PIXELS = generator.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(40) % 3


class Photos(Dataset):
    """As those of torchvision: images of Pillow, and labels beside them."""

    def __init__(self, first=0, last=30, transform=None, target_transform=None):
        self.pixels, self.targets = PIXELS[first:last], LABELS[first:last].tolist()
        self.transform, self.target_transform = transform, target_transform

    def __getitem__(self, index):
        image, target = Image.fromarray(self.pixels[index]), self.targets[index]
        image = image if self.transform is None else self.transform(image)
        return image, target if self.target_transform is None else self.target_transform(target)

    def __len__(self):
        return len(self.targets)


def noisy(image):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return pixels + torch.rand(()) + np.random.rand() + random.random()


def photos():
    return {"train": Photos(), "test": Photos(30, 40)}


def noisy_photos():
    return {"train": Photos(transform=noisy), "test": Photos(30, 40, noisy)}


def swapped():
    change = {0: 2, 1: 1, 2: 0}.get
    return {name: Photos(a, b, target_transform=change) for name, a, b in (("train", 0, 30), ("test", 30, 40))}


def table():
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((50, 4)))
    whole = TensorDataset(x, (x.sum(1) > 0).long())
    train, validation, test = random_split(whole, [30, 10, 10], torch.Generator().manual_seed(0))
    return {"train": train, "validation": validation, "test": test}


def unseeded():
    own = np.random.default_rng()
    noise = lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 + own.random()
    return {"train": Photos(transform=noise), "test": Photos(30, 40, noise)}


class Sums(Dataset):
    def __getitem__(self, index):
        x = np.random.default_rng(index).standard_normal(4)
        return x, x.sum()

    def __len__(self):
        return 30


def sums():
    return {"train": Sums(), "test": Sums()}


class Broken(Photos):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def __getitem__(self, index):
        image, target = super().__getitem__(index)
        if index != 29:
            return image, target
        if self.kind == "error":
            raise OSError("no such file\\nat all")
        return {
            "size": (image.resize((4, 4)), target),
            "triple": (image, target, 1),
            "dict": {"image": image},
            "text": (image, "cat"),
            "mode": (image.convert("CMYK"), target),
            "one": (image, torch.tensor([1])),
            "negative": (image, -1),
        }[self.kind]


def broken(kind):
    return {"train": Broken(kind), "test": Photos(30, 40)}


class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


def stream():
    return {"train": Stream(), "test": Photos()}


def loader():
    return {"train": DataLoader(Photos()), "test": Photos()}


def misspelt():
    return {"training": Photos(), "test": Photos()}


def nothing():
    return {"train": Photos(last=0), "test": Photos()}


def halves():
    return {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_tets": LABELS}


class Net(torch.nn.Sequential):
    """A small network of the user's own for tables."""

    def __init__(self, input_shape, num_classes, width=8):
        super().__init__(torch.nn.Linear(*input_shape, width), torch.nn.Tanh(), torch.nn.Linear(width, num_classes))
'''
NAME = "datasets_of_a_user"


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """The user's module, beside which commands run."""
    (tmp_path / f"{NAME}.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(NAME, None)


def typed(function, *more):
    return ["model=mlp", "model.hidden=[4]", f"data._target_={NAME}.{function}", "batching.size=8", *more]


def notes_of(function):
    return torch_datasets(getattr(import_module(NAME), function)()).notes


def pixels():
    return sys.modules[NAME].PIXELS


def test_images_of_pillow_become_tensors_on_the_unit_scale():
    run = built(*typed("photos"))
    assert (run.num_classes, run.input_shape) == (3, (3, 6, 5))
    images, labels = next(run.evaluation_sets["test"].ordered(10))
    assert torch.equal(images, torch.from_numpy(pixels()[30:]).permute(0, 3, 1, 2) / 255)
    assert labels.tolist() == [(i + 30) % 3 for i in range(10)]
    seen = torch.cat([batch.inputs for batch in islice(run.batches(), 4)])
    training = torch.from_numpy(pixels()[:30]).permute(0, 3, 1, 2) / 255
    assert (seen[:, None] == training).flatten(2).all(2).sum(0).tolist() == [1] * 30


def test_keys_of_the_command_line_normalise_resize_and_mix():
    more = ["data.mean=[0.5]", "data.std=[0.25]", "data.size=12", "augmentation.mixup=1", "augmentation.cutout=3"]
    run = built(*typed("photos", *more))
    plain = built(*typed("photos")).evaluation_sets["test"]
    images = next(run.evaluation_sets["test"].ordered(10))[0]
    expected = (next(plain.ordered(10))[0] - 0.5) / 0.25
    expected = torch.nn.functional.interpolate(expected, (12, 12), mode="bilinear", antialias=True)
    assert torch.allclose(images, expected, atol=1e-6)
    batch = next(run.batches())
    assert batch.inputs.shape == (8, 3, 12, 12)
    assert batch.targets.shape == (8, 3)


def test_labels_come_from_the_items_where_a_transform_changes_them():
    """The list beside the images is then not that of the samples."""
    run = built(*typed("swapped"))
    assert run.evaluation_sets["test"].targets.tolist() == [2 - (i + 30) % 3 for i in range(10)]


@pytest.mark.slow
def test_random_transforms_are_functions_of_seed_epoch_and_index():
    """Neither the number of workers nor the position where a run goes on changes a batch."""
    batches = []
    for workers in (0, 2):
        run = built(*typed("noisy_photos", f"data.workers={workers}"))
        before = torch.get_rng_state()
        batches.append([batch.inputs for batch in islice(run.batches(), 8)])
        assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one, two) for one, two in zip(*batches, strict=True))
    assert not torch.equal(batches[0][0].sum(), batches[0][4].sum())  # another epoch
    run.progress.load_state_dict({**run.progress.state_dict(), "step": 6, "epoch": 1, "offset": 16})
    assert torch.equal(next(run.batches()).inputs, batches[0][6])
    other = built(*typed("noisy_photos", "seed=1"))
    assert not torch.equal(next(other.batches()).inputs, batches[0][0])
    first, second = (next(run.evaluation_sets["test"].ordered(10))[0] for _ in range(2))
    assert torch.equal(first, second)


def test_a_random_transform_is_noted_where_the_validation_set_has_it():
    assert any(
        "validation samples have the" in note for note in built(*typed("noisy_photos", "data.validation=0.2")).notes
    )
    assert not any("validation samples" in note for note in built(*typed("photos", "data.validation=0.2")).notes)


def test_random_numbers_that_nobody_seeds_are_noted():
    assert any("items of train, test differ with the same seeds" in note for note in notes_of("unseeded"))
    assert not notes_of("noisy_photos")


def test_tensors_are_the_same_with_and_without_a_loop_over_samples(monkeypatch):
    run = built(*typed("table", "data.limit=20"))
    assert {kind: len(source) for kind, source in run.evaluation_sets.items()} == {"validation": 10, "test": 10}
    quick = list(islice(run.batches(), 3))
    monkeypatch.setattr("trainopt.data.map_style.source.tensors_of", lambda *arguments: None)
    slow = list(islice(built(*typed("table", "data.limit=20")).batches(), 3))
    for one, two in zip(quick, slow, strict=True):
        assert one.inputs.dtype == torch.float32
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.targets, two.targets)


def test_real_numbers_are_targets_of_a_regression():
    run = built(*typed("sums", "objective=mse"))
    assert (run.num_classes, run.num_outputs, run.input_shape) == (None, 1, (4,))
    inputs, targets = next(run.evaluation_sets["test"].ordered(30))
    assert inputs.dtype == targets.dtype == torch.float32
    assert torch.allclose(inputs.sum(1, keepdim=True), targets, atol=1e-5)
    assert torch.equal(targets, run.evaluation_sets["test"].targets)


def test_a_network_of_the_user_trains_on_a_table(tmp_path):
    arguments = [
        f"data._target_={NAME}.table",
        f"model._target_={NAME}.Net",
        "+model.width=6",
        "batching.size=8",
        "optimizer.lr=0.5",
        "logger=[]",
        "hydra.run.dir=run",
    ]
    assert forked(*arguments, "duration=2epochs", folder=tmp_path) == 0, (tmp_path / "output").read_text()
    summary = (tmp_path / "run/summary.json").read_text()
    assert '"best_on": "validation"' in summary
    rows = [line for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines() if '"kind": "test"' in line]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("function", "kind", "line"),
    [
        (
            "stream",
            [],
            "data: train, a Stream, has no items by index, which a reproducible order needs; must be a map-s",
        ),
        ("loader", [], "data: train is a DataLoader; return its dataset"),
        ("misspelt", [], "data: the function returns training, test, must return train, test and"),
        ("nothing", [], "data: train has no items"),
        (
            "broken",
            ["size"],
            "item 29 of the train set has an input of shape [3, 4, 4], the first one has [3, 6, 5]; a",
        ),
        ("broken", ["triple"], "item 29 of the train set is a tuple of 3, must be a pair (input, target); there is no"),
        ("broken", ["dict"], "item 29 of the train set is a dict, must be a pair (input, target)"),
        ("broken", ["text"], "item 29 of the train set has a str as its target, must be a tensor"),
        ("broken", ["mode"], "item 29 of the train set has an image of mode CMYK as its input, must be one"),
        ("broken", ["one"], "item 29 of the train set has an integer of shape (1,) as its target"),
        ("broken", ["error"], "item 29 of the train set cannot be read (OSError: no such file at all)"),
        ("broken", ["negative"], "data: the train set holds labels -1 to 2, must be 0 to"),
    ],
)
def test_what_is_no_set_of_pairs_is_refused_by_name(function, kind, line):
    with pytest.raises(DataError) as error:
        torch_datasets(getattr(import_module(NAME), function)(*kind))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "more", "line"),
    [
        ("halves", [], "data: the function returns x_train, y_train, x_test, y_tets; a dict of arrays has x_train"),
        (
            "photos",
            ["augmentation.flip=0.5"],
            "augmentation.flip=0.5: is for images in memory; a Dataset has transforms",
        ),
        ("photos", ["data.pad=2"], "data.pad=2: is for images in memory"),
        ("table", ["data.validation=0.1"], "data.validation=0.1: there is a Dataset `validation` already"),
        ("table", ["data.mean=[1]"], "data.mean=[1]: is for images, and inputs have the shape [4]"),
        ("sums", [], "objective=cross_entropy: needs classes"),
    ],
)
def test_keys_that_a_dataset_leaves_no_room_for_are_refused(function, more, line):
    assert line in refusal(*typed(function, *more))


def test_an_item_that_changes_during_a_run_ends_it_with_a_line(tmp_path):
    """A worker process finds it; the line has no traceback."""
    run = built(*typed("photos", "data.workers=1"))
    run.training_set.samples.dataset.pixels = np.concatenate([pixels()[:20], pixels()[:0]])
    with pytest.raises(Exception, match=r"cannot be read \(IndexError: index 2\d is out of bounds"):
        list(islice(run.batches(), 4))


@pytest.mark.slow
def test_workers_read_where_one_process_would_take_long(monkeypatch):
    assert built(*typed("photos")).training_set.workers == 0
    monkeypatch.setattr("trainopt.data.samples.loading.LONG_LOADING", 0.0)
    run = built(*typed("photos"))
    number = min(4, cpu_count())
    assert run.training_set.workers == number
    assert f"up to {number} processes read the data (data.workers)" in run.notes
    assert built(*typed("table")).training_set.workers == 0
