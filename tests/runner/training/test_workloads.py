"""Workloads beside images: which network takes which data, and that they can be learned."""

import numpy as np
import pytest
import torch

from helpers.cli import built, prepared, refusal
from trainopt.data import diabetes, digits
from trainopt.runner.config.options import CONF, read


def test_a_transformer_gets_the_tokens_of_the_data():
    run = built("model=transformer", "data=modular_addition", "data.p=5", "model.width=8", "batching.size=9")
    assert (run.num_classes, run.input_shape, run.input_dtype) == (5, (3,), torch.int64)
    assert run.network.tokens.num_embeddings == 6  # 0 to 4 and the equals sign
    inputs, targets, *_ = next(run.batches())
    assert inputs.shape == (9, 3)
    assert torch.equal(targets, (inputs[:, 0] + inputs[:, 1]) % 5)


def test_the_targets_of_an_autoencoder_are_pixels_on_their_own_scale():
    run = built("model=autoencoder", "data=digits", "batching.size=50")
    assert (run.num_classes, run.num_outputs, list(run.metrics)) == (None, 64, ["rmse"])
    inputs, targets, *_ = next(run.batches())
    assert torch.equal(inputs, targets)
    images = torch.from_numpy(digits().x_test).permute(0, 3, 1, 2) / 255
    of_test = torch.cat([targets for _, targets in run.evaluation_sets["test"].ordered(100)])
    assert torch.allclose(of_test, images)
    with torch.no_grad():
        outputs = run.network.eval()(of_test).double()
    errors = -(of_test * outputs.sigmoid().log() + (1 - of_test) * (-outputs).sigmoid().log())
    row = run.evaluate("test")
    assert row["loss"] == pytest.approx(errors.mean().item(), rel=1e-5)  # of pixels; the sum is 64 times that
    assert row["rmse"] == pytest.approx((outputs.sigmoid() - of_test).square().mean().sqrt().item(), rel=1e-5)


def test_augmented_inputs_of_an_autoencoder_are_its_targets():
    run = built("model=autoencoder", "data=digits", "augmentation.flip=1.0", "batching.size=1437", "seed=3")
    plain = built("model=autoencoder", "data=digits", "batching.size=1437", "seed=3")
    (inputs, targets, *_), (originals, *_) = (next(r.batches()) for r in (run, plain))
    assert torch.equal(inputs, targets)
    assert sorted(inputs.flip(3).sum((1, 2)).tolist()) == sorted(originals.sum((1, 2)).tolist())


@pytest.mark.parametrize(
    ("typed", "objective"),
    [
        ("data=diabetes", "mse"),
        ("data=digits model=autoencoder", "bce"),
        ("data=digits model=autoencoder objective=mse", "mse"),
        ("data=diabetes model=autoencoder", "mse"),  # its inputs are no pixels
        ("data=diabetes objective=bce", "bce"),
        ("data=digits", "cross_entropy"),
    ],
)
def test_data_and_networks_choose_the_objective_unless_it_is_typed(typed, objective):
    config, choices = prepared(*typed.split())
    assert choices["objective"] == objective
    assert config.objective._target_ == read(CONF / f"objective/{objective}.yaml")["_target_"]


def test_a_regression_is_evaluated_in_the_unit_of_its_standardised_targets():
    run = built("model=mlp", "data=diabetes", "model.hidden=[]")
    for parameter in run.network.parameters():
        parameter.data.zero_()
    row = run.evaluate("test")
    expected = np.sqrt(np.square(diabetes().y_test.astype(np.float64)).mean())
    assert row["rmse"] == pytest.approx(expected, rel=1e-6)
    assert row["loss"] == pytest.approx(expected**2, rel=1e-6)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("model=transformer data=digits", "model: a transformer needs sequences of tokens, integers of shape (N, L)"),
        ("model=transformer data=diabetes", "the inputs of this data have the shape (10,)"),
        ("model=resnet8 data=diabetes", "model: trainopt.models.ResNet is for images"),
        ("model=mlp data=diabetes objective=cross_entropy", "needs classes, and the targets are numbers"),
        ("model=autoencoder data=digits objective=cross_entropy", "needs classes, and the targets are numbers"),
        ("model=autoencoder data=digits metric=[top1]", "metric=top1: needs classes"),
        ("model=autoencoder data=digits data.mean=[0.5]", "needs targets in [0, 1], and these reach from -0.5 to 0.5"),
        ("model=autoencoder data=diabetes objective=bce", "needs targets in [0, 1]"),
        ("model=autoencoder data=modular_addition", "model: the network takes no int64 inputs of shape [3]"),
        ("model=autoencoder model.init=zero", "model.init=zero: must be one of sparse, xavier, torch"),
        ("model=autoencoder model.trainable=last_layer", "model.trainable=last_layer: "),
        ("model=mlp model.hidden=null", "model.hidden=null: must be a list of integer"),
        ("model=transformer data=breast_cancer", "the inputs of this data have the shape (30,)"),
        ("model=mlp data=modular_addition", "model: the network takes no int64 inputs of shape [3]"),
        ("model=resnet8 data=breast_cancer", "model: trainopt.models.ResNet is for images"),
        ("model=mlp data=breast_cancer augmentation=standard", "augmentation.flip=0.5: is for images"),
        ("model=transformer data=modular_addition data.p=1", "data.p=1: must be an integer >= 2"),
        ("model=transformer data=modular_addition model.heads=3", "model.heads=3: must divide width=128"),
        ("model=transformer data=modular_addition model.norm=batch", "model.norm=batch: must be one of pre, post"),
    ],
)
def test_what_does_not_go_together_is_refused(typed, line):
    assert line in refusal(*typed.split())
