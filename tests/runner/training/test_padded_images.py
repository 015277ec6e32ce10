"""`data.pad`: what a run sees of images with zero padding."""

import numpy as np
import pytest
import torch

from helpers.cli import built
from helpers.fixtures import image_folders
from trainopt.runner.system.errors import UserError


def test_the_toy_network_of_liao_2018_sees_mnist_as_32x32(npz, tmp_path, monkeypatch):
    path = npz("mnist.npz", shape=(28, 28))
    monkeypatch.setenv("TRAINOPT_DATA", str(tmp_path))
    run = built("data=mnist", "data.pad=2", "model=mlp", "model.hidden=[500,500]", "data.validation=0.2")
    assert run.parameters == 768_010  # section 4.4: 0.77 million
    assert run.input_shape == (1, 32, 32)
    pixels = np.zeros((30, 32, 32))
    with np.load(path) as archive:
        pixels[:, 2:30, 2:30] = archive["x_test"]
    expected = torch.from_numpy((pixels / 255 - 0.1307) / 0.3081).float()
    images, _ = next(run.evaluation_sets["test"].ordered(30))
    assert torch.allclose(images[:, 0], expected, atol=1e-5)
    for source in (run.training_set, run.evaluation_sets["validation"]):
        images, _ = next(source.ordered(10))
        assert images.shape[1:] == (1, 32, 32)


def test_images_are_padded_before_they_are_shifted_resized_and_described():
    run = built(
        "model=mlp",
        "data.pad=4",
        "augmentation.crop_padding=1",
        "data.size=32",
        "data.limit=50",
        "augmentation.fill=mean",
    )
    assert run.input_shape == (1, 32, 32)
    plain = built("model=mlp", "data.limit=50")
    assert run.training_set.shape == (1, 16, 16)
    assert run.training_set.digest() != plain.training_set.digest()
    scale = [images.scale.item() for images in (run.training_set, plain.training_set)]
    assert scale[0] > scale[1]  # more zeros, a smaller deviation


def test_images_in_folders_are_not_padded(tmp_path):
    image_folders(tmp_path, train=1, val=1)
    with pytest.raises(UserError, match="data.pad=2: is for images in memory"):
        built("data=imagefolder", f"data.path={tmp_path}", "data.pad=2", "data.mean=[0.5]", "data.std=[0.5]")
