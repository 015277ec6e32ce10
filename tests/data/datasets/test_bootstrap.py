"""Runs on a bootstrap sample of the training images: what changes, and what does not."""

import torch

import helpers.cli
from helpers.fixtures import image_folders
from helpers.runs import rows, same_weights, stop_at, summary, timeless
from trainopt.data import bootstrap

RUN = ("model=mlp", "data.bootstrap=true", "duration=20steps", "evaluate_every=7steps", "logger=none")


def built(*overrides):
    return helpers.cli.built("model=mlp", *overrides)


def images_of(source):
    return torch.cat([images for images, _ in source.ordered(64)])


def test_only_the_training_images_change():
    options = ("data.validation=0.2", "data.limit=200")
    whole, one, two, again = (
        built(*options, f"data.bootstrap={on}", f"seed={seed}")
        for on, seed in (("false", 0), ("true", 0), ("true", 1), ("true", 0))
    )
    for kind in ("validation", "test"):
        for other in (one, two):
            assert whole.evaluation_sets[kind].digest() == other.evaluation_sets[kind].digest()
    assert len(one.training_set) == len(whole.training_set) == 200
    assert one.training_set.digest() == again.training_set.digest()
    digests = {run.training_set.digest() for run in (whole, one, two)}  # what features are kept by
    assert len(digests) == 3
    distinct = set(map(bytes, images_of(one.training_set).numpy()))
    assert distinct < set(map(bytes, images_of(whole.training_set).numpy()))
    assert any(f"{len(distinct)} of 200 training images are in the bootstrap sample" in n for n in one.notes)


def test_folders_of_images_are_sampled_too(tmp_path):
    image_folders(tmp_path, train=20, val=3, height=16, width=16)
    options = ("data=imagefolder", f"data.path={tmp_path}", "data.size=16", "data.workers=0", "data.crop_pct=1")
    options += ("data.scale=[1,1]", "data.ratio=[1,1]")  # no random crops: the images themselves
    whole, sample = (built(*options, f"data.bootstrap={on}") for on in ("false", "true"))
    assert whole.evaluation_sets["test"].digest() == sample.evaluation_sets["test"].digest()
    assert whole.training_set.digest() != sample.training_set.digest()
    expected = images_of(whole.training_set)[torch.from_numpy(bootstrap(40, 0))]
    assert torch.equal(images_of(sample.training_set), expected)


def test_a_run_on_a_sample_is_resumed_bit_for_bit(trainopt, tmp_path, monkeypatch):
    assert trainopt(*RUN, "run.name=whole").code == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 9)
        assert trainopt(*RUN, "run.name=parts").code == 130
    assert trainopt("resume", "outputs/parts").code == 0
    whole, parts = tmp_path / "outputs/whole", tmp_path / "outputs/parts"
    assert timeless(rows(parts)) == timeless(rows(whole))
    assert timeless(summary(parts)) == timeless(summary(whole))
    assert same_weights(parts, whole)


def test_without_images_there_is_nothing_to_sample(trainopt):
    result = trainopt("model=function", "data=none", "data.bootstrap=true")
    assert result.code == 2
    assert "data.bootstrap=True: is for images, and a test function has none" in result.err
