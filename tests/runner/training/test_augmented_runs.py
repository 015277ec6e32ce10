"""Runs on augmented images: what is recorded, what stays as it is, and who can train on mixup."""

import math

import numpy as np
import pytest
import torch

from helpers.runs import rows, weights
from trainopt.data.sources.mixup import draw_mixup
from trainopt.data.sources.order import epoch_generator

EVERYTHING = (
    "augmentation.flip=0.5",
    "augmentation.crop_padding=1",
    "augmentation.crop_probability=0.5",
    "augmentation.cutout=3",
    "augmentation.mixup=0.5",
)


def run(trainopt, tmp_path, *command, name="a"):
    """The folder of a run that went well."""
    result = trainopt(*command, "logger=none", "log_every=1steps", f"run.name={name}")
    assert result.code == 0, result.err
    return tmp_path / "outputs" / name


def test_rows_are_those_of_a_plain_implementation_of_mixup_with_label_smoothing(trainopt, tmp_path, npz):
    """A linear classifier that stays where it is, in numpy."""
    path = npz()
    folder = run(
        trainopt,
        tmp_path,
        *("data=arrays", f"data.path={path}", "data.mean=[0.0]", "data.std=[1.0]", "augmentation.mixup=0.7", "seed=5"),
        *("model=mlp", "model.hidden=[]", "batching.size=25", "duration=2epochs"),
        *("optimizer.lr=0", "objective.label_smoothing=0.1"),
    )
    with np.load(path) as archive:  # closed: another test would get the warning that it was not
        data = dict(archive)
    matrix, bias = (w.double().numpy() for w in weights(folder).values())
    found = rows(folder, "train")
    assert len(found) == 6
    for row, (epoch, start) in zip(found, [(e, s) for e in (0, 1) for s in (0, 25, 50)], strict=True):
        order = torch.randperm(60, generator=epoch_generator(5, epoch)).numpy()[start : start + 25]
        pixels, classes = data["x_train"][order].reshape(-1, 64) / 255, np.eye(3)[data["y_train"][order]]
        share, partner = draw_mixup(0.7, 5, epoch, start, len(order))
        targets = share * classes + (1 - share) * classes[partner]
        logits = (share * pixels + (1 - share) * pixels[partner]) @ matrix.T + bias
        logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        loss = -((0.9 * targets + 0.1 / 3) * logp).sum(1).mean()
        assert row["cross_entropy"] == pytest.approx(loss, rel=1e-5)  # float32
        assert row["top1"] == pytest.approx(100 * targets[range(len(order)), logits.argmax(1)].mean(), rel=1e-5)


def test_evaluation_before_the_first_step_is_that_of_a_run_without_augmentation(trainopt, tmp_path):
    command = ("model=mlp", "data.limit=100", "data.validation=0.1", "duration=1steps")
    with_it = run(trainopt, tmp_path, *command, *EVERYTHING, name="with")
    without = run(trainopt, tmp_path, *command, name="without")
    for kind in ("test", "validation"):
        one, other = rows(with_it, kind), rows(without, kind)
        figures = ("loss", "top1", "top5")
        assert [one[0][key] for key in figures] == [other[0][key] for key in figures]
        assert one[1]["loss"] != other[1]["loss"]


@pytest.mark.parametrize(
    "command",
    [
        "optimizer=ehnewton",
        "optimizer=ehnewton optimizer.curvature=gauss_newton optimizer.curvature_share=0.5",
        "optimizer=newton model.hidden=[]",
        "optimizer=adaptive_nesterov probe=[taylor] probe.taylor.every=1steps",
        "precision=bf16 device=cpu",
    ],
)
def test_mixtures_can_be_trained_on_by_whoever_looks_at_the_loss(trainopt, tmp_path, command):
    small = ("model=mlp", "model.hidden=[8]", "data.limit=60", "batching.size=30", "duration=3steps")
    found = rows(run(trainopt, tmp_path, *small, *EVERYTHING, *command.split()), "train")
    assert len(found) == 3
    assert all(math.isfinite(row["total"]) for row in found)
