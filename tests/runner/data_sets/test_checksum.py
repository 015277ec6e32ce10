"""Checksums of data sets: what they find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from helpers.fixtures import image_folders
from trainopt.data import NoData, checksum_of, digits, image_folder, torch_datasets
from trainopt.runner.data_sets.checksum import data_checksum


@pytest.mark.parametrize("size", [5, 1024, 5000])
def test_every_single_change_is_found(size):
    values = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    places = range(0, size, max(1, size // 50))
    changed = np.tile(values, (len(places), 1))
    changed[range(len(places)), places] ^= 1
    assert len({checksum_of([row]) for row in [values, *changed]}) == 1 + len(places)


def test_labels_that_change_places_are_found():
    labels = np.arange(1000) % 10
    swapped = labels.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert checksum_of([labels]) != checksum_of([swapped])


def test_order_shape_and_type_count_and_the_layout_in_memory_does_not():
    values = np.arange(4096, dtype=np.float32).reshape(4, 1024)
    others = [values[::-1], values.reshape(2, 2048), values.view(np.int32)]
    assert len({checksum_of([one]) for one in [values, *others]}) == 4
    assert checksum_of([np.asfortranarray(values)]) == checksum_of([values])
    assert checksum_of([values[:2], values[2:]]) != checksum_of([values])


def test_arrays_are_taken_whole_and_a_run_without_data_has_no_checksum():
    data = digits()
    labels = data.y_train.copy()
    labels[-1] = (labels[-1] + 1) % 10
    one, other = data_checksum(data), data_checksum(replace(data, y_train=labels))
    assert one["of"] == "the values of x_train, y_train, x_test, y_test"
    assert one == data_checksum(digits())
    assert one["value"] != other["value"]
    assert data_checksum(NoData()) is None


class FromFiles(Dataset):
    """Samples that are read one by one."""

    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return torch.zeros(3), self.labels[index]


def test_datasets_in_memory_are_taken_whole_and_others_by_their_classes():
    def of(inputs, labels):
        return data_checksum(torch_datasets(dict.fromkeys(("train", "test"), TensorDataset(inputs, labels))))

    inputs, labels = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])
    assert of(inputs, labels) == of(inputs.clone(), labels)
    assert of(inputs, labels)["value"] != of(inputs + 1, labels)["value"]
    one, other = (
        data_checksum(torch_datasets(dict.fromkeys(("train", "test"), FromFiles(labels))))
        for labels in ([0, 1, 0, 1], [0, 1, 1, 1])
    )
    assert one["of"] == "the number of samples and their classes of train, test"
    assert one["value"] != other["value"]


def test_folders_are_known_by_their_files_and_not_by_where_they_lie(tmp_path):
    for name in ("one", "two"):
        image_folders(tmp_path / name)
    one, two = (data_checksum(image_folder(str(tmp_path / name), workers=0)) for name in ("one", "two"))
    assert one == two
    image = next((tmp_path / "two/train").rglob("*.png"))
    image.write_bytes(image.read_bytes() + b"0")
    assert data_checksum(image_folder(str(tmp_path / "two"), workers=0))["value"] != one["value"]
