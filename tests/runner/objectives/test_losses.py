"""Losses: against plain PyTorch and sums over samples; a loss of the user that is the same function is the same run."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.cli import built, refusal
from helpers.references import close
from helpers.runs import double, float64_run, rows
from trainopt.optimizers.curvature.curvature import Curvature
from trainopt.runner.objectives import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from trainopt.runner.objectives.loss import OwnLoss

torch.manual_seed(0)
OUTPUTS, CLASSES = torch.randn(7, 4), torch.randint(4, (7,))
PROBABILITIES = torch.rand(7, 4).softmax(1)
ONE_HOT = F.one_hot(CLASSES, 4).float()
SMALL = ("model=mlp", "model.hidden=[6]", "data.limit=40", "batching.size=20")


def absolute(outputs, targets, power=1.0):
    """The loss of each sample."""
    return ((outputs - targets).abs() ** power).mean(1)


def summed(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="sum")


def detached(outputs, targets):
    return F.cross_entropy(outputs.detach(), targets)


def number(outputs, targets):
    """No tensor."""
    return 1.0


@pytest.mark.parametrize("targets", [CLASSES, PROBABILITIES])
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (MeanSquaredError(4), lambda t: (OUTPUTS - t).square().sum() / 28),
        (BinaryCrossEntropy(4), lambda t: -(t * OUTPUTS.sigmoid().log() + (1 - t) * (-OUTPUTS).sigmoid().log()).mean()),
        (CrossEntropy(0.2), lambda t: -((0.8 * t + 0.05) * OUTPUTS.log_softmax(1)).sum() / 7),
    ],
)
def test_classes_are_vectors_and_the_loss_is_the_mean_of_those_of_the_samples(loss, targets, expected):
    vectors = ONE_HOT if targets is CLASSES else targets
    close(loss(OUTPUTS, targets), expected(vectors), 1e-6)
    close(loss.of_samples(OUTPUTS, targets).mean(), loss(OUTPUTS, targets), 1e-6)
    smooth = CrossEntropy() if isinstance(loss, CrossEntropy) else loss  # label smoothing is for training
    close(loss.evaluated_sum(OUTPUTS, targets), 7 * smooth(OUTPUTS, targets).double(), 1e-6)


def test_the_square_loss_of_the_true_class_is_scaled_as_in_hui_and_belkin():
    outputs = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classes, k, M = torch.tensor([0, 4, 2, 2, 1, 3]), 15.0, 30.0
    expected = []
    for f, c in zip(outputs.tolist(), classes.tolist(), strict=True):
        expected.append((k * (f[c] - M) ** 2 + sum(f[i] ** 2 for i in range(5) if i != c)) / 5)
    loss = MeanSquaredError(5, k, M)
    torch.testing.assert_close(loss.of_samples(outputs, classes), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(loss(outputs, classes), torch.tensor(expected, dtype=torch.float64).mean())
    assert torch.equal(MeanSquaredError(5, 1.0, 1.0)(outputs, classes), MeanSquaredError(5)(outputs, classes))


def test_numbers_are_compared_one_by_one():
    targets = torch.randn(7, dtype=torch.float64)
    close(MeanSquaredError()(OUTPUTS[:, :1], targets), (OUTPUTS[:, 0] - targets.float()).square().mean(), 1e-6)
    close(MeanSquaredError()(OUTPUTS[:, :1], CLASSES), (OUTPUTS[:, 0] - CLASSES).square().mean(), 1e-6)
    with pytest.raises(ValueError, match="outputs and targets of a sample have different shapes, 4 and 1"):
        MeanSquaredError()(OUTPUTS, targets)


def test_ones_own_cross_entropy_is_ours_bit_for_bit(trained):
    typed = ("logger=none", *SMALL, "duration=4steps", "evaluate_every=2steps", "log_every=1steps", "optimizer=adam")
    ours = trained(*typed, name="ours")
    for target in ("torch.nn.CrossEntropyLoss", "torch.nn.functional.cross_entropy"):
        own = trained(*typed, f"objective._target_={target}", name=target)
        assert rows_without(ours) == rows_without(own)


def rows_without(folder):
    """The rows without times, and with one name for the term of the loss."""
    names = {"objective": "term", "cross_entropy": "term"}
    return [{names.get(k, k): v for k, v in row.items() if k != "train_seconds"} for row in rows(folder)]


def test_ones_own_loss_may_return_a_scalar_or_the_loss_of_each_sample():
    of_samples, scalar = OwnLoss(absolute), OwnLoss(lambda o, t: absolute(o, t).mean())
    expected = absolute(OUTPUTS, PROBABILITIES)
    for loss in (of_samples, scalar):
        loss.try_out(OUTPUTS, PROBABILITIES)
        close(loss(OUTPUTS, PROBABILITIES), expected.mean(), 1e-6)
        close(loss.evaluated_sum(OUTPUTS, PROBABILITIES), expected.sum().double(), 1e-6)
    assert torch.equal(of_samples.of_samples(OUTPUTS, PROBABILITIES), expected)
    assert (of_samples.gives_samples, scalar.gives_samples) == (True, False)
    elements = OwnLoss(nn.SmoothL1Loss())
    close(elements.of_samples(OUTPUTS, PROBABILITIES).mean(), F.smooth_l1_loss(OUTPUTS, PROBABILITIES), 1e-6)
    with pytest.raises(ValueError, match="returns a scalar, and not the loss of each sample"):
        scalar.of_samples(OUTPUTS, PROBABILITIES)


def test_gauss_newton_of_the_square_loss_is_the_jacobian_s():
    """The outputs' Hessian is 2 / (B C) times the identity."""
    typed = ("model.hidden=[3]", "objective=mse", "optimizer=ehnewton", "optimizer.curvature=gauss_newton")
    run = float64_run("model=mlp", "data.limit=20", "batching.size=6", *typed)
    batch = double(next(run.batches()))
    params = list(run.network.parameters())
    curvature = Curvature(lambda: run.objective(batch.inputs, batch.targets)[0], params, "gauss_newton")
    outputs = run.network(batch.inputs).flatten()
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(o, params, retain_graph=True)]) for o in outputs]
    J, v = torch.stack(rows), torch.randn(sum(p.numel() for p in params), dtype=torch.float64)
    close(curvature.matvec_flat(v), 2 / len(outputs) * J.T @ (J @ v), 1e-10)


def test_rows_of_the_fisher_probe_are_gradients_of_the_square_loss():
    run = float64_run(
        "model=mlp", "model.hidden=[3]", "data.limit=20", "batching.size=6", "objective=mse", "probe=[fisher]"
    )
    batch, params = double(next(run.batches())), list(run.network.parameters())
    probe, run.progress.step = run.probes["fisher"], 1
    probe.before_step(run, batch)
    run.objective(batch.inputs, batch.targets)[0].backward()
    probe.after_step(run, batch)
    losses = ((run.network(batch.inputs) - F.one_hot(batch.targets, 10)) ** 2).mean(1)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(loss, params, retain_graph=True)]) for loss in losses]
    J = torch.stack(rows)
    close(probe.gram.double(), J @ J.T, 1e-5)  # in float32


@pytest.mark.quick_every(3)
@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["objective._target_=tests_number.number"], "objective._target_=tests_number.number: cannot be imported"),
        (
            [f"objective._target_={__name__}.number"],
            "number must return a tensor, a scalar or (B,), and returns float",
        ),
        ([f"objective._target_={__name__}.summed"], "summed sums over a batch; return its mean, or the loss of each"),
        ([f"objective._target_={__name__}.detached"], "detached returns a loss without its graph; compute it from"),
        (["objective._target_=torch.nn.SmoothL1Loss"], "torch.nn.SmoothL1Loss does not take the outputs and targets"),
        (
            [f"objective._target_={__name__}.absolute", "+objective.powr=2"],
            "objective.powr: unknown key; did you mean obj",
        ),
        (["objective._target_=torch.nn.CrossEntropyLoss", "+objective.reduction=sum"], "must be a mean; leave it out"),
        (
            ["objective._target_=torch.nn.Linear", "+objective.in_features=2", "+objective.out_features=2"],
            "has parameters",
        ),
        (
            ["objective=mse", "objective.true_class_weight=0"],
            "objective.true_class_weight=0: must be > 0",
        ),
        (
            ["data=diabetes", "model.hidden=[3]", "objective.true_class_target=2"],
            "objective.true_class_target=2: is about classes, and the targets are numbers; leave it out",
        ),
        (
            ["objective=mse", "objective.label_smoothing=0.1"],
            "objective=mse has no such key; it is one of cross_entropy",
        ),
        (
            ["objective._target_=torch.nn.MultiMarginLoss", "augmentation.mixup=0.2"],
            "augmentation.mixup: targets are then probabilities (B, classes), which torch.nn.MultiMarginLoss does not",
        ),
        (
            ["objective._target_=torch.nn.MultiMarginLoss", "optimizer=ehnewton", "optimizer.curvature=gauss_newton"],
            "optimizer.curvature=gauss_newton: torch.nn.MultiMarginLoss calls no loss function of torch.nn.functional",
        ),
    ],
)
def test_what_does_not_fit_is_refused(typed, line):
    assert line in refusal(*SMALL, *typed)


def test_targets_that_are_numbers_need_a_loss_for_them(tmp_path):
    table = {"x_train": np.eye(20), "y_train": np.linspace(-1, 3, 20), "x_test": np.eye(20), "y_test": np.ones(20)}
    np.savez(tmp_path / "d.npz", **table)
    typed = ("data=arrays", f"data.path={tmp_path}/d.npz", "model=mlp", "batching.size=5")
    assert refusal(*typed) == "objective=cross_entropy: needs classes, and the targets are numbers; give objective=mse"
    assert "needs targets in [0, 1], and these reach from -1 to 3" in refusal(*typed, "objective=bce")
    assert refusal(*typed, "objective=mse", "metric=[top1]").endswith("the targets are numbers; give metric=[rmse]")
    run = built(*typed, "objective._target_=torch.nn.SmoothL1Loss")
    assert (list(run.metrics), run.selection.metric) == (["rmse"], "rmse")
    batch = next(run.batches())
    expected = F.smooth_l1_loss(run.network(batch.inputs)[:, 0], batch.targets.flatten())
    close(run.objective(batch.inputs, batch.targets)[0].detach(), expected.detach(), 1e-6)
