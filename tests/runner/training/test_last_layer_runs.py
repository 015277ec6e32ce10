"""Runs of the last layer: what is frozen, where features come from, and that all else works as with a network."""

import functools
import json
import os

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.cli import refusal
from helpers.fixtures import image_folders
from helpers.runs import equal, rows, same_weights, stop_at, summary, train_run, weights
from trainopt.data import InMemory, digits
from trainopt.models import LastLayer, ResNet
from trainopt.runner.config.options import shipped
from trainopt.runner.metrics.build import default_metrics
from trainopt.runner.objectives import CrossEntropy
from trainopt.runner.state.evaluation import evaluate

RUN = ("model=resnet8", "model.trainable=last_layer", "data.limit=150", "duration=3epochs", "logger=none")
CASES = {
    "cached": (),
    "not cached": ("model.feature_cache=none",),
    "random augmentation": ("augmentation.flip=0.5", "augmentation.crop_padding=1"),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test's own."""
    monkeypatch.setenv("TRAINOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def computed(monkeypatch):
    """How many images went through a backbone, batch by batch."""
    sizes = []
    features = LastLayer.features

    def noted(self, images):
        sizes.append(len(images))
        return features(self, images)

    monkeypatch.setattr(LastLayer, "features", noted)
    return sizes


@functools.cache
def pretrained(seed):
    """The weights of a network that was trained on digits, for another task: which of 7 classes, label mod 7."""
    torch.manual_seed(seed)
    network = ResNet(1, 7, 8, relu_after_sum=False, shortcut="average_pool")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    data = digits()
    images = InMemory(data.x_train, data.y_train % 7, [0.3], [0.4])
    for x, y in images.epoch(0, 0, [(i, i + 64) for i in range(0, 1408, 64)]):
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()
    return network.state_dict()


def backbone(tmp_path, seed=5):
    """A file with the weights of a network for another task, as a word of the command line; and these."""
    torch.save(pretrained(seed), tmp_path / f"w{seed}.pt")
    return f"model.weights={tmp_path}/w{seed}.pt", pretrained(seed)


@pytest.mark.parametrize("case", CASES)
def test_frozen_means_frozen(trained, tmp_path, case):
    given, before = backbone(tmp_path)
    folder = trained(*RUN, *CASES[case], given)
    after = weights(folder)
    assert after.keys() == before.keys()
    assert all(equal(after[n], before[n]) for n in before if not n.startswith("linear."))
    assert after["linear.weight"].shape == (10, 64)
    found = summary(folder)
    assert (found["parameters"], found["trainable_parameters"]) == (75_130, 650)
    assert found["final"]["top1"] > 30
    assert ("features" in found["seconds"]) is (case != "not cached")


def test_from_cached_features_training_ends_where_it_does_without(trained, tmp_path, computed):
    given, _ = backbone(tmp_path)
    trained(*RUN, given, name="cached")
    assert sum(computed) == 300  # 150 for training, 150 for the test
    trained(*RUN, given, "model.feature_cache=none", name="not")
    assert sum(computed) == 300 + 3 * 150 + 4 * 150
    one, two = (rows(tmp_path / f"outputs/{name}") for name in ("cached", "not"))
    assert [row["top1"] for row in one] == [row["top1"] for row in two]
    for a, b in zip(one, two, strict=True):
        key = "total" if a["kind"] == "train" else "loss"
        assert a[key] == pytest.approx(b[key], rel=1e-5)  # features differ by rounding
    w, v = (weights(tmp_path / f"outputs/{name}")["linear.weight"] for name in ("cached", "not"))
    assert torch.allclose(w, v, rtol=1e-4, atol=1e-6)


def test_features_are_computed_once_and_shared(trained, trainopt, tmp_path, computed, cache):
    given, _ = backbone(tmp_path)
    first = trainopt(*RUN, given, "run.name=a")
    assert "features   computed in" in first.out
    assert len(list(cache.glob("*.npy"))) == 2
    computed.clear()
    second = trainopt(*RUN, given, "seed=1", "optimizer=adam", "run.name=b")
    assert f"features   from {os.path.relpath(cache, tmp_path)}" in second.out
    assert not computed
    environment = json.loads((tmp_path / "outputs/b/environment.json").read_text())
    assert environment["features"].startswith("from")
    assert trainopt("evaluate", "outputs/b").code == 0
    assert not computed
    trained(*RUN, given, "augmentation.flip=0.5", name="c")
    assert sum(computed) == 3 * 150  # the training images; the test's are in the cache


@pytest.mark.quick_every(2)
@pytest.mark.parametrize(
    ("change", "files"),
    [
        (("data.limit=100",), 4),
        (("data.mean=[0.4]",), 4),
        (("data.size=12",), 4),
        (("data.pad=1",), 4),
        (("precision=bf16",), 4),
        (("data.validation=0.2",), 5),  # other training images, validation images, the same test images
        (("optimizer=adam", "batching.size=32", "regularizer=[l2]"), 2),
    ],
)
def test_what_features_depend_on_makes_others(trained, tmp_path, cache, change, files):
    given, _ = backbone(tmp_path)
    trained(*RUN, given, "duration=2steps")
    trained(*RUN, given, "duration=2steps", *change, name="b")
    assert len(list(cache.glob("*.npy"))) == files


def test_weights_of_another_network_are_refused(trainopt, tmp_path, cache):
    given, _ = backbone(tmp_path)
    result = trainopt(*RUN, given, "duration=2steps", "model.relu_after_sum=true")
    assert result.code == 2
    assert "does not fit the network" in result.err
    assert not list(cache.glob("*.npy"))


def test_other_weights_make_other_features(trained, tmp_path, cache):
    for seed in (5, 6):
        given, _ = backbone(tmp_path, seed=seed)
        trained(*RUN, given, "duration=2steps", name=f"w{seed}")
    assert len(list(cache.glob("*.npy"))) == 4
    assert not same_weights(tmp_path / "outputs/w5", tmp_path / "outputs/w6")


def test_damaged_features_are_computed_anew(trained, tmp_path, computed, cache):
    given, _ = backbone(tmp_path)
    trained(*RUN, given)
    damaged = next(cache.glob("*.npy"))
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    computed.clear()
    trained(*RUN, given, name="b")
    assert sum(computed) == 150
    assert same_weights(tmp_path / "outputs/a", tmp_path / "outputs/b")


def test_features_may_lie_in_the_runs_folder(trained, tmp_path, cache):
    given, _ = backbone(tmp_path)
    folder = trained(*RUN, given, "model.feature_cache=run")
    assert "stored in outputs/a/features" in (folder / "log.txt").read_text()
    assert len(list((folder / "features").glob("*.npy"))) == 2
    assert not cache.exists()


def test_where_features_cannot_be_stored_the_backbone_runs(trained, tmp_path, monkeypatch, computed):
    given, _ = backbone(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRAINOPT_CACHE", str(tmp_path / "file"))
    log = (trained(*RUN, given) / "log.txt").read_text()
    assert "note: features cannot be stored (" in log
    assert "Not a directory" in log
    assert sum(computed) == 3 * 150 + 4 * 150
    assert "features   computed for every batch" in log


def test_a_run_whose_backbone_was_replaced_does_not_go_on(trainopt, tmp_path, monkeypatch):
    given, _ = backbone(tmp_path)
    stop_at(monkeypatch, 2)
    assert train_run(tmp_path / "outputs/a", *RUN, given) == 130
    _, other = backbone(tmp_path, seed=6)
    torch.save(other, tmp_path / "w5.pt")
    result = trainopt("resume", "outputs/a")
    assert result.code == 2
    assert "the frozen layers differ" in result.err


def test_a_checkpoint_gives_weights_to_a_whole_network(trained, tmp_path):
    given, _ = backbone(tmp_path)
    trained(*RUN, given)
    file = "model.weights=outputs/a/checkpoints/last.pt"
    trained("model=resnet8", "data.limit=150", file, "duration=1steps", "logger=none", name="b")
    first, last = rows(tmp_path / "outputs/b", "test")[0], rows(tmp_path / "outputs/a", "test")[-1]
    assert first["top1"] == last["top1"]
    assert first["loss"] == pytest.approx(last["loss"], rel=1e-5)


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    "more",
    [
        ("optimizer=ehnewton", "probe=[taylor]", "probe.taylor.every=2steps"),
        ("optimizer=adaptive_nesterov", "regularizer=[l2]", "channels_last=true"),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_other_optimizers_terms_and_probes_take_it(trained, tmp_path, case, more):
    given, before = backbone(tmp_path)
    trained(*RUN, given, *CASES[case], *more)
    after = weights(tmp_path / "outputs/a")
    assert all(equal(after[n], before[n]) for n in before if not n.startswith("linear."))
    if "regularizer=[l2]" in more:
        row = rows(tmp_path / "outputs/a", "train")[-1]
        assert 0 < row["l2"] < 1e-3  # of the classifier's 640 weights alone; the backbone's make it 0.1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            ("model=function", "data=none"),
            "model.trainable=last_layer: Function has no method get_classifier",
        ),
        (("model=timm", "model.name=dpn48b"), "model.trainable=last_layer: the classifier is of the class Conv2d"),
        (("model.trainable=some",), "model.trainable=some: must be one of all, last_layer"),
        (("model.feature_cache=here",), "model.feature_cache=here: must be one of shared, run, none"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(choices, message):
    assert message in refusal("model.trainable=last_layer", *choices)


def test_the_command_line_says_it_and_writes_nothing(trainopt, tmp_path):
    result = trainopt("model.trainable=some")
    assert result.code == 2
    assert result.err == "trainopt: model.trainable=some: must be one of all, last_layer\n"
    assert not (tmp_path / "outputs").exists()


def test_every_key_that_makes_images_random_is_known():
    """A new key belongs into one of these; what is random, its source must say (`is_random`)."""
    fixed = {"root", "download", "limit", "validation", "bootstrap", "mean", "std", "pad", "size", "channels"}
    fixed.add("workers")
    assert set(shipped("config.yaml")["data"]) == fixed
    of_a_crop = {"crop_probability", "fill"}
    random = {"flip", "crop_padding", "cutout", "mixup", "cutmix", "random_erasing", "transforms"}
    assert set(shipped("augmentation/none.yaml")) - {"_target_"} == random | of_a_crop


def test_folders_without_random_transforms_are_cached(trained, tmp_path, computed):
    image_folders(tmp_path / "images", train=6, val=3, height=20, width=30)
    command = ("data=imagefolder", f"data.path={tmp_path}/images", "data.size=16", "data.workers=0", *RUN)
    command = (*command, "batching.size=5", "duration=2epochs")
    plain = ("data.scale=[1,1]", "data.ratio=[1,1]")
    trained(*command, *plain)
    assert sum(computed) == 12 + 6
    trained(*command, *plain, "model.feature_cache=none", name="b")
    one, two = (rows(tmp_path / f"outputs/{name}", "train") for name in "ab")
    assert [row["total"] for row in one] == pytest.approx([row["total"] for row in two], rel=1e-5)
    computed.clear()
    trained(*command, name="c")
    assert sum(computed) == 2 * 12  # random crops of the training images; the test's features are there


def test_an_evaluation_looks_at_the_classifier_and_not_at_the_auxiliary_one():
    class Both(torch.nn.Flatten):
        def forward(self, x):
            return super().forward(x), -super().forward(x)  # timm's Inception gives both in evaluation mode too

    images = InMemory(np.eye(4, dtype=np.uint8).reshape(4, 2, 2, 1), np.arange(4), [0.0], [1 / 255])
    assert evaluate(Both(), Both(), images, 3, CrossEntropy(), default_metrics(2, CrossEntropy()))["top1"] == 100
