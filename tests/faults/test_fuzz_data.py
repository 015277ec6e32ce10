"""Drawn data: images of all modes, depths and layouts, and labels, are read as they are or refused by name."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from faults.fuzz import check_kinds, write_npz
from helpers.cli import built
from trainopt.runner.system.errors import UserError


def data_set(folder, *typed):
    """Returns the run of a command line in a folder, before its first step, or the line of its refusal."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        return built("model=mlp", "model.hidden=[4]", "logger=none", *typed), ""
    except UserError as error:
        return None, str(error)
    finally:
        os.chdir(here)


def fuzz_labels(draw, folder):
    """Labels are 0 to the number of classes minus 1 and are read as they are, or they are refused."""
    values = draw(
        st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 7, 1000000, 2**40]), min_size=1, max_size=5, unique=True)
    )
    form = draw(st.sampled_from(["int64", "int32", "uint8", "float32", "bool", "U3", "object"]))
    with np.errstate(all="ignore"):
        train = np.resize(np.array(values), 30).astype(form)
        test = np.resize(np.array(values), 12).astype(form)
    write_npz(folder / "d.npz", y_train=train, y_test=test)
    built_run, refused = data_set(folder, "data=arrays", "data.path=d.npz", "batching.size=30")
    clean = form not in ("float32", "U3", "object") and sorted({*train.tolist()}) == list(range(len({*train.tolist()})))
    if not clean:
        assert "d.npz" in refused or form in ("float32", "bool"), (values, form, refused)
    if built_run is not None:
        targets = np.concatenate([batch[1].numpy() for batch in built_run.evaluation_sets["test"].ordered(5)])
        assert (targets == test.astype(np.int64)).all()
        assert built_run.network(next(iter(built_run.evaluation_sets["test"].ordered(2)))[0]).shape[1] == len(
            {*train.tolist()}
        )


def fuzz_arrays(draw, folder):
    """Images are (N, H, W, C) or (N, H, W) of 8 bits, and are read as they are, or they are refused."""
    shape = draw(
        st.sampled_from([(6, 6), (6, 6, 1), (6, 6, 3), (3, 6, 6), (1, 16, 16), (4, 8, 8), (6,), (6, 6, 2), (0, 6, 1)])
    )
    form = draw(
        st.sampled_from(["uint8", "uint8", "uint8", "int64", "float32", "float64", "uint16", "bool", "int8", "U3"])
    )
    count = draw(st.sampled_from([0, 1, 12]))
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    images = [rng.integers(0, 200, (n, *shape)).astype(form) for n in (30, count)]
    write_npz(folder / "d.npz", x_train=images[0], x_test=images[1], y_test=np.arange(count) % 3)
    built_run, refused = data_set(folder, "data=arrays", "data.path=d.npz", "batching.size=10")
    are_images = shape in ((6, 6, 1), (6, 6, 3), (6, 6, 2)) or (shape == (6, 6) and form == "uint8")
    are_others = shape in ((6,), (6, 6)) and form in ("float32", "float64")
    right = count and ((are_images and form in ("uint8", "float32", "float64")) or are_others)
    # integers are for embeddings
    if len(shape) == 1 and form in ("uint8", "int64", "uint16", "int8", "bool") and count:
        assert "takes no int64 inputs" in refused, refused
    else:
        assert bool(built_run) == bool(right), (shape, form, count, refused)
        assert built_run is not None or "d.npz" in refused, refused
    if built_run is not None and are_images:
        read = np.concatenate([batch[0].numpy() for batch in built_run.evaluation_sets["test"].ordered(5)])
        check_standardized(
            images[1].reshape(count, 6, 6, -1).transpose(0, 3, 1, 2), images[0].reshape(30, 36, -1), read
        )


def check_standardized(images, train, read) -> None:
    """Asserts that images (N, C, H, W) were read, standardized by channel over the training set."""
    mean, deviation = (getattr(train.astype(float), name)(axis=(0, 1)) for name in ("mean", "std"))
    expected = (images - mean[:, None, None]) / np.maximum(deviation, 1e-9)[:, None, None]
    assert np.abs(read - expected).max() < 2e-3, np.abs(read - expected).max()


MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # of ImageNet
MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16", "I", "F")


def fuzz_images(draw, folder):
    """Images of all modes and depths have the brightness that was drawn; the brightest is white."""
    mode = draw(st.sampled_from(MODES))
    kind = draw(st.sampled_from({"CMYK": ["tiff", "jpg"], "F": ["tiff"], "I": ["tiff"]}.get(mode, ["png", "tiff"])))
    top = draw(st.sampled_from([255, 1023, 4095, 65535])) if mode in ("I;16", "I", "F") else 255
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    gray = {}
    for part, count in (("train", 6), ("val", 3)):
        for label in "ab":
            place = folder / "d" / part / label
            place.mkdir(parents=True)
            for index in range(count):
                value = top if (part, index) == ("train", 0) else int(rng.integers(0, top + 1))
                gray[part, label, index] = value * (255 / top)
                values = np.full((8, 8), value)
                save(values, mode, place / f"{index}.{kind}")
    workers = draw(st.sampled_from([0, 0, 1]))
    typed = ["data=imagefolder", f"data.path={folder}/d", "data.size=8", f"data.workers={workers}", "batching.size=4"]
    built_run, refused = data_set(folder, *typed)
    assert built_run is not None, refused
    read = np.concatenate([batch[0].numpy() for batch in built_run.evaluation_sets["test"].ordered(2)])
    drawn = np.array([gray["val", label, index] for label in "ab" for index in range(3)])
    if mode == "1":
        drawn = np.where(drawn >= 128, 255, 0)
    pixels = read * DEVIATION[:, None, None] + MEAN[:, None, None]
    error = np.abs(pixels * 255 - drawn[:, None, None, None]).max()
    assert error < (4 if kind == "jpg" else 0.6), (mode, kind, top, error)


def save(values: np.ndarray, mode: str, path: Path) -> None:
    """Saves gray values as an image of a mode."""
    if mode in ("I;16", "I", "F"):
        Image.fromarray(values.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])).save(path)
        return
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "1":
        image = image.point(lambda value: 255 if value >= 128 else 0)
    (image.convert("RGB").convert(mode) if mode == "CMYK" else image.convert(mode)).save(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [f for name, f in globals().items() if name.startswith("fuzz_")])
def test_drawn_inputs(kind, tmp_path):
    check_kinds(kind, tmp_path)
