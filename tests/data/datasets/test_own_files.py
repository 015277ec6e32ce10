"""Files of the user: folders of .npy, and of Hugging Face's datasets."""

import numpy as np
import pytest
import torch
from PIL import Image

from trainopt.data import Arrays, DataError, DatasetSource, arrays, torch_datasets

RNG = np.random.default_rng(0)
PARTS = {
    "x_train": RNG.standard_normal((20, 3, 2)).astype(np.float32),
    "y_train": RNG.standard_normal(20),
    "x_test": RNG.standard_normal((6, 3, 2)).astype(np.float32),
    "y_test": RNG.standard_normal(6),
}


@pytest.fixture
def folder(tmp_path):
    """A folder of .npy files."""
    for name, values in PARTS.items():
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path


def test_a_folder_of_npy_is_mapped(folder):
    data = arrays(str(folder))
    assert isinstance(data.x_train, np.memmap)
    assert np.array_equal(data.x_train, PARTS["x_train"])
    assert (data.num_classes, data.num_outputs, data.input_shape) == (None, 1, (3, 2))
    assert np.array_equal(data.y_test, PARTS["y_test"].astype(np.float32)[:, None])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("y_test", None, "y_test.npy: no such file; x_train.npy, y_train.npy, x_test.npy, y_test.npy are needed"),
        ("x_test", b"\x93NUMPY", "x_test.npy: cannot be read as .npy, it may be truncated"),
        ("x_test", b"", "x_test.npy: cannot be read as .npy, it may be truncated"),
    ],
)
def test_a_missing_or_damaged_npy_is_named(folder, name, content, line):
    (folder / f"{name}.npy").unlink()
    if content is not None:
        (folder / f"{name}.npy").write_bytes(content)
    with pytest.raises(DataError) as error:
        arrays(str(folder))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_the_library_of_a_folder_of_hugging_face_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "dataset_dict.json").touch()
    monkeypatch.setattr("trainopt.data.datasets.hugging_face.find_spec", lambda name: None)
    with pytest.raises(DataError, match="is not installed; pip install datasets"):
        arrays(str(tmp_path))


@pytest.fixture
def saved(tmp_path):
    """The function writes columns as the splits of a DatasetDict; it returns the folder."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def save(columns, splits=("train", "validation", "test"), features=None):
        types = None if features is None else datasets.Features(features(datasets))
        split = datasets.Dataset.from_dict(columns, features=types)
        folder = tmp_path / "saved"
        datasets.DatasetDict(dict.fromkeys(splits, split)).save_to_disk(folder)
        return str(folder)

    return save


@pytest.mark.slow
def test_images_of_hugging_face_are_read_with_their_classes(saved):
    pixels = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    columns = {"image": [Image.fromarray(image) for image in pixels], "label": [0, 1] * 3}
    folder = saved(columns, features=lambda d: {"image": d.Image(), "label": d.ClassLabel(names=["a", "b", "c"])})
    data = torch_datasets(arrays(folder), workers=0)
    assert (data.num_classes, data.input_shape, list(data.parts)) == (3, (3, 4, 5), ["train", "test", "validation"])
    images, labels = next(DatasetSource(data, "train", np.arange(6)).ordered(6))
    assert torch.equal(images, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert labels.tolist() == [0, 1] * 3


@pytest.mark.slow
def test_columns_of_numbers_become_vectors_in_memory(saved):
    columns = {"a": [0.5, 1.5, 2.5], "b": [1, 2, 3], "target": [0.1, 0.2, 0.3]}
    data = torch_datasets(arrays(saved(columns)))
    source = DatasetSource(data, "test", np.arange(3))
    assert source.tensors is not None
    inputs, targets = next(source.ordered(3))
    assert inputs.tolist() == [[0.5, 1], [1.5, 2], [2.5, 3]]
    assert torch.allclose(targets, torch.tensor([[0.1], [0.2], [0.3]]))
    assert data.num_classes is None
    lists = torch_datasets(arrays(saved({"tokens": [[1, 2], [3, 4], [5, 0]], "labels": [0, 1, 0]})))
    assert (lists.num_tokens, lists.num_classes, lists.input_dtype) == (6, 2, torch.int64)


@pytest.mark.slow
def test_splits_of_hugging_face_need_no_file():
    datasets = pytest.importorskip("datasets")
    split = datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, 1]})
    data = torch_datasets(datasets.DatasetDict(train=split, test=split))
    assert (data.num_classes, data.input_shape) == (2, (1,))
    with pytest.raises(DataError, match="data: has the splits train, dev; train and test are needed"):
        torch_datasets(datasets.DatasetDict(train=split, dev=split))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("columns", "splits", "line"),
    [
        ({"x": [1.0], "label": [0]}, ["train"], "has the splits train; train and test are needed"),
        ({"x": [1.0], "class": [0]}, ["train", "test"], "has the columns x, class; one of them must be called label"),
        (
            {"x": [1.0], "name": ["a"], "label": [0]},
            ["train", "test"],
            "has columns of no numbers, name; leave them out: splits.remove_columns(['name'])",
        ),
        ({"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}, ["train", "test"], "column x holds no numbers, lacks some, or"),
        ({"x": [1.0, None], "label": [0, 1]}, ["train", "test"], "the train set holds values that are nan"),
        (
            {"x": [1.0, 2.0], "z": [[1.0], [2.0]], "label": [0, 1]},
            ["train", "test"],
            "columns of lists, z, cannot be joined",
        ),
    ],
)
def test_other_splits_and_columns_are_refused(saved, columns, splits, line):
    with pytest.raises(DataError) as error:
        torch_datasets(arrays(saved(columns, splits)))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_single_dataset_of_hugging_face_is_refused(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"x": [1.0], "label": [0]}).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"a DatasetDict with train and test is needed"):
        arrays(str(tmp_path))


def test_arrays_in_memory_stay_as_they_are():
    data = Arrays(*PARTS.values(), where="here")
    assert data.x_train is PARTS["x_train"]
