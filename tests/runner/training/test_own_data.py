"""Data of the user: inputs and targets of any shape and type."""

import json

import numpy as np
import pytest
import torch

from helpers.cli import built, refusal

RNG = np.random.default_rng(0)
TABLE = {
    "x_train": RNG.standard_normal((40, 5)),
    "y_train": np.arange(40) % 3,
    "x_test": RNG.standard_normal((12, 5)),
    "y_test": np.arange(12) % 3,
}


@pytest.fixture
def saved(tmp_path):
    """Writes arrays, those of TABLE but for the ones that it gets; returns what is typed to train on them."""

    def save(**arrays):
        path = tmp_path / "d.npz"
        np.savez(path, **{**TABLE, **arrays})
        return ["data=arrays", f"data.path={path}", "model=mlp"]

    return save


def test_tables_are_used_as_they_are(saved):
    run = built(*saved(), "batching.size=40")
    assert (run.num_classes, run.num_outputs, run.input_shape) == (3, 3, (5,))
    batch = next(run.batches())
    places = (TABLE["x_train"].astype(np.float32) == batch.inputs.numpy()[:, None]).all(2)
    order = places.argmax(1).tolist()
    assert sorted(order) == list(range(40))
    assert batch.targets.tolist() == TABLE["y_train"][order].tolist()
    assert run.objective(batch.inputs, batch.targets)[0].isfinite()


def test_float_images_are_normalised_in_their_own_unit_and_augmented(saved):
    train, test = (RNG.normal(5, 3, (count, 8, 8, 2)).astype(np.float32) for count in (40, 12))
    run = built(*saved(x_train=train, x_test=test), "augmentation=standard", "batching.size=40")
    inputs, _ = next(iter(run.evaluation_sets["test"].ordered(12)))
    mean, std = train.mean((0, 1, 2), dtype=np.float64), train.std((0, 1, 2), dtype=np.float64)
    assert np.allclose(inputs.numpy(), ((test - mean) / std).transpose(0, 3, 1, 2), atol=1e-5)
    again, _ = next(iter(run.evaluation_sets["test"].ordered(12)))
    assert torch.equal(inputs, again)  # what is stored is unchanged
    assert next(run.batches()).inputs.shape == (40, 2, 8, 8)


@pytest.mark.parametrize(
    ("arrays", "typed", "line"),
    [
        ({}, ["data.size=8"], "data.size=8: is for images, and inputs have the shape [5]; leave it out"),
        ({}, ["data.mean=[0.5]"], "data.mean=[0.5]: is for images"),
        ({}, ["augmentation.flip=0.5"], "augmentation.flip=0.5: is for images"),
        ({}, ["model=resnet8"], "model: trainopt.models.ResNet is for images, and inputs have the shape [5]; give m"),
        ({}, ["model.trainable=last_layer"], "model.trainable=last_layer: is for networks of images"),
        ({}, ["channels_last=true"], "channels_last=true: is for images"),
        (
            {"x_train": np.zeros((40, 5), int), "x_test": np.zeros((12, 5), int)},
            [],
            "model: the network takes no int64 inputs of shape [5] (",
        ),
        (
            {"y_train": np.zeros((40, 2)), "y_test": np.zeros((12, 2))},
            ["data.num_classes=3"],
            "num_classes=3: targets are no classes; leave it out",
        ),
    ],
)
def test_what_does_not_apply_is_refused(saved, arrays, typed, line):
    assert line in refusal(*saved(**arrays), *typed)


def test_a_run_does_not_go_on_with_other_data(saved, trainopt, tmp_path):
    typed = [*saved(), "run.name=a", "logger=none"]
    assert trainopt(*typed, "duration=2epochs").code == 0
    folder, path = tmp_path / "outputs/a", tmp_path / "d.npz"
    content = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    saved(y_test=1 - TABLE["y_test"] % 2)
    result = trainopt("resume", "outputs/a", "duration=4epochs")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith(f"trainopt: {path}: is not the data that the run was trained on until now (checksum ")
    assert line.endswith("; put that data back, or give run.name=NAME or hydra.run.dir=DIR for a new run")
    assert content == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    environment = json.loads((folder / "environment.json").read_text())
    del environment["data_checksum"]  # as of version 0.1.0
    (folder / "environment.json").write_text(json.dumps(environment))
    saved(x_train=np.ones((60, 5)), y_train=np.arange(60) % 3)
    result = trainopt("resume", "outputs/a", "duration=4epochs")
    assert (result.code, "(60 training samples, before 40)" in result.err) == (2, True)
    saved(y_test=1 - TABLE["y_test"] % 2)
    assert trainopt("resume", "outputs/a", "duration=4epochs").code == 0
