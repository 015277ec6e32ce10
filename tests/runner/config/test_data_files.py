"""Data sets are looked for where torchvision would put them."""

import pytest
from torchvision import datasets

from trainopt.runner.config.data_files import TORCHVISION, missing


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_files_of_a_data_set_are_those_of_torchvision(name, tmp_path):
    if "mnist" in name:
        kind = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
        files = [f"{kind.__name__}/raw/{url.removesuffix('.gz')}" for url, _ in kind.resources]
    elif "cifar" in name:
        kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
        files = [f"{kind.base_folder}/{file}" for file, _ in [*kind.train_list, *kind.test_list]]
    else:
        files = [datasets.SVHN.split_list[part][1] for part in ("train", "test")]
    assert sorted(files) == sorted(TORCHVISION[name])
    for file in files:
        assert len(missing({"data": name}, tmp_path)) == 1
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert missing({"data": name}, tmp_path) == []
