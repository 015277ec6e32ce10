"""The training loss on a fixed sample, against plain passes over it; and that it leaves the run as it is."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.cli import built, refusal
from helpers.runs import equal, rows, state
from trainopt.data import class_balanced

RUN = ("duration=6steps", "checkpoint_every=1e9epochs", "log_every=1steps", "logger=none", "averaging=ema")
# batch norm, dropout and random flips: in training mode the loss would be another
RESNET = ("model=timm", "model.name=test_resnet", "model.drop_rate=0.3", "data.limit=60", "batching.size=8")
MLP = ("model=mlp", "model.hidden=[20]", "model.dropout=0.3", "data.limit=60", "batching.size=8")
PROBE = ("augmentation.flip=0.5", "probe=[training_loss]", "probe.training_loss.every=2steps")


@pytest.mark.parametrize("model", [MLP, pytest.param(RESNET, marks=pytest.mark.slow)])
def test_it_is_the_loss_of_the_trained_weights_and_of_their_average_on_the_same_samples(trained, tmp_path, model):
    sample = "probe.training_loss.samples=40"
    trained(*RUN, *model, *PROBE, sample, "objective.label_smoothing=0.1", name="with")
    trained(*RUN, *model, *PROBE[:1], "objective.label_smoothing=0.1", name="without")
    one, other = state(tmp_path / "outputs/with"), state(tmp_path / "outputs/without")
    assert equal({k: v for k, v in one.items() if k != "probes"}, {k: v for k, v in other.items() if k != "probes"})
    measured = rows(tmp_path / "outputs/with", "probe")
    assert [row["step"] for row in measured] == [2, 4, 6]

    run = built(*RUN, *model, *PROBE, sample)
    images, targets = (torch.cat(parts) for parts in zip(*run.training_set.ordered(64), strict=True))
    chosen = class_balanced(targets.numpy(), 40)
    for column, weights in (("raw_loss", one["model"]), ("loss", one["averaging"]["model"])):
        run.network.load_state_dict(weights)
        with torch.no_grad():
            expected = cross_entropy(run.network.eval()(images[chosen]), targets[chosen])
        assert measured[-1][column] == pytest.approx(expected.item(), rel=1e-5)  # float32, another order


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", ["augmentation.flip=0.5", "augmentation=none"])
def test_the_sample_of_a_last_layer_has_features_as_its_evaluations_have(trained, tmp_path, augmentation):
    options = (*RUN[:3], *RESNET, "model.trainable=last_layer", "model.drop_rate=0", "probe=[training_loss]")
    trained(*options, augmentation, "logger=none", "probe.training_loss.every=6steps")
    (row,) = rows(tmp_path / "outputs/a", "probe")
    run = built(*options, augmentation)
    run.network.load_state_dict(state(tmp_path / "outputs/a")["model"])
    whole = built(*options[:-2], "model.trainable=all")
    images, targets = (torch.cat(parts) for parts in zip(*whole.training_set.ordered(64), strict=True))
    with torch.no_grad():
        expected = cross_entropy(run.network.eval()(images), targets)
    assert "raw_loss" not in row
    assert row["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_sample_of_nothing_is_refused():
    assert "samples=0: must be at least 1" in refusal(
        "model=mlp", "probe=[training_loss]", "probe.training_loss.samples=0"
    )
