"""Commands of the README's kind at their full length, on real data where it is."""

import pytest

from helpers.runs import rows, same_weights, summary

pytestmark = pytest.mark.slow


def test_the_first_command_learns_digits(trainopt, tmp_path):
    assert trainopt().code == 0
    found = summary(tmp_path / "outputs/resnet8-digits-sgd")
    assert found["final"]["top1"] > 95
    assert found["wall_seconds"] < 120


def test_a_network_for_imagenet_trains_on_the_default_data(trainopt):
    result = trainopt("model=resnet50", "optimizer=adam", "duration=2steps", "data.limit=64")
    assert result.code == 0
    assert "images are upsampled from 8x8 to 32x32 pixels" in result.out


def test_inception_trains_on_the_default_data(trainopt):
    result = trainopt("model=inception_v3", "optimizer=adam", "duration=2steps", "data.limit=16")
    assert result.code == 0
    assert "images are upsampled from 8x8 to 75x75 pixels" in result.out


def test_the_fisher_probe_measures_a_compiled_network_and_leaves_it_as_it_was(trainopt, tmp_path):
    command, probe = (
        ("model=mlp", "duration=4steps", "logger=none"),
        ("probe=[fisher]", "probe.fisher.every=2steps"),
    )
    assert trainopt(*command, *probe, "run.name=eager").code == 0
    assert trainopt(*command, *probe, "compile=true", "run.name=compiled").code == 0
    assert trainopt(*command, "compile=true", "run.name=without").code == 0
    outputs = tmp_path / "outputs"
    assert same_weights(outputs / "compiled", outputs / "without")
    one, other = (rows(outputs / name, "probe") for name in ("eager", "compiled"))
    assert [row["c_k"] for row in other] == pytest.approx([row["c_k"] for row in one], rel=1e-3)
    assert [row["L_K"] for row in other] == pytest.approx([row["L_K"] for row in one], rel=1e-5)


def test_a_small_network_learns_mnist(trainopt, tmp_path, real_data):
    assert trainopt("model=mlp", "data=mnist", "optimizer=sgd", "optimizer.lr=0.1", "duration=3epochs").code == 0
    assert summary(tmp_path / "outputs/mlp-mnist-sgd,duration=3epochs,optimizer.lr=0.1")["final"]["top1"] > 90


def test_a_residual_network_trains_on_cifar10(trainopt, tmp_path, real_data):
    command = ("model=resnet20", "data=cifar10", "data.limit=2000", "batching.size=32", "duration=2epochs")
    assert trainopt(*command, "run.name=a").code == 0
    found = summary(tmp_path / "outputs/a")
    assert found["final"]["top1"] > 20
    assert (found["training_images"], found["test_images"]) == (2000, 1000)
