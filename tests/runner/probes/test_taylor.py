"""What the Taylor probe says, against plain gradients; and that it leaves a run where it found it."""

import json

import pytest
import torch

from helpers.cli import built
from helpers.runs import equal, rows, summary
from trainopt.runner.probes.taylor import TaylorProbe
from trainopt.runner.state.snapshot import RunSnapshot

RUN = ("duration=14steps", "log_every=1steps", "logger=none", "probe=[taylor]", "probe.taylor.every=1steps")
MLP = ("model=mlp", "model.hidden=[20]", "model.dropout=0.3", "data.limit=300", "regularizer=[l2]")


def test_the_loss_before_is_that_of_the_training_row_and_the_changes_belong_together(trained, tmp_path):
    """The same batch, dropout mask, stochastic depth and regularizer: the same loss, bit for bit."""
    resnet = ("model=timm", "model.name=test_resnet", "model.drop_rate=0.3", "model.drop_path_rate=0.2")
    command = (*RUN, *resnet, "data.limit=120", "batching.size=4", "regularizer=[l2]", "optimizer.lr=0.01")
    trained(*command)
    trained, probed = rows(tmp_path / "outputs/a", "train"), rows(tmp_path / "outputs/a", "probe")
    assert [row["loss"] for row in probed] == [row["total"] for row in trained]
    for row in probed:
        assert row["probe"] == "taylor"
        assert row["first_order_error"] == row["actual_change"] - row["first_order_change"]
        assert row["second_order_error"] == row["actual_change"] - row["second_order_change"]
        assert row["change_ratio"] == row["actual_change"] / row["second_order_change"]
    keys = ("step", "epoch", "samples", "gradients", "hvps")
    assert [[r[k] for k in keys] for r in probed] == [[r[k] for k in keys] for r in trained]


def test_the_first_order_change_is_what_the_optimizer_took_it_for(trained, tmp_path):
    """EHNewton says g.p of its own gradient, at the same weights and with the same dropout mask; d = lr p."""
    command = (*RUN, *MLP, "optimizer=ehnewton", "optimizer.lr=0.1")
    trained(*command)
    trained, probed = rows(tmp_path / "outputs/a", "train"), rows(tmp_path / "outputs/a", "probe")
    expected = [0.1 * row["directional_derivative"] for row in trained]
    assert [row["first_order_change"] for row in probed] == pytest.approx(expected, rel=1e-4)  # float32


def test_what_the_taylor_probe_says_is_what_plain_gradients_say():
    """A plain second computation in float64: the gradient, and the Hessian times the step by a difference."""
    run = built("model=mlp", "model.hidden=[7]", "model.activation=tanh", "regularizer=[l2]", "data.limit=50")
    run.network.double()
    batch = next(run.batches())
    batch = type(batch)(batch.inputs.double(), *batch[1:])
    params = list(run.network.parameters())

    def loss_and_gradient():
        total = run.objective(batch.inputs, batch.targets)[0]
        return total.item(), torch.autograd.grad(total, params)

    def moved(start, direction, length):
        with torch.no_grad():
            for p, w, d in zip(params, start, direction, strict=True):
                p.copy_(w + length * d)

    probe = TaylorProbe()
    probe.before_step(run, batch)
    start = [p.detach().clone() for p in params]
    step = [0.3 * torch.randn_like(p) for p in params]
    moved(start, step, 1.0)
    found = probe.after_step(run, batch)
    assert all(torch.equal(p, w + d) for p, w, d in zip(params, start, step, strict=True))

    losses, slopes = {}, {}
    for length in (-1e-4, 0.0, 1e-4, 1.0):
        moved(start, step, length)
        losses[length], gradient = loss_and_gradient()
        slopes[length] = sum((g * d).sum().item() for g, d in zip(gradient, step, strict=True))
    curvature = (slopes[1e-4] - slopes[-1e-4]) / 2e-4  # good to 1e-8, a central difference
    assert found["loss"] == pytest.approx(losses[0.0], rel=1e-13)
    assert found["actual_change"] == pytest.approx(losses[1.0] - losses[0.0], rel=1e-10)
    assert found["first_order_change"] == pytest.approx(slopes[0.0], rel=1e-10)
    assert found["second_order_change"] == pytest.approx(slopes[0.0] + curvature / 2, rel=1e-6)
    assert abs(found["second_order_error"]) < abs(found["first_order_error"])


def test_a_moment_is_visited_and_left_without_a_trace():
    torch.manual_seed(0)
    run = built("model=resnet8", "data.limit=40")
    run.network.train()
    batch = next(run.batches())
    snapshot = RunSnapshot(run)
    first = run.objective(batch.inputs, batch.targets)[0].item()
    with torch.no_grad():
        for p in run.network.parameters():
            p.add_(0.01 * torch.randn_like(p))
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    generator = torch.get_rng_state()
    with snapshot.active():
        assert run.objective(batch.inputs, batch.targets)[0].item() == first
        torch.rand(3)
    assert equal(before, dict(run.network.state_dict()))
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.slow
def test_every_evaluation_between_steps_leaves_no_gradient(trainopt, tmp_path, monkeypatch):
    """`p.grad` after a probed step is that of the step."""
    seen = []
    after = TaylorProbe.after_step

    def watched(self, run, batch):
        gradients = [(p.grad, p.grad.clone()) for p in run.network.parameters()]
        values = after(self, run, batch)
        seen.append(all(p.grad is g for p, (g, _) in zip(run.network.parameters(), gradients, strict=True)))
        seen.append(all(torch.equal(g, copy) for g, copy in gradients))
        return values

    monkeypatch.setattr(TaylorProbe, "after_step", watched)
    assert trainopt(*RUN, *MLP).code == 0
    assert seen == [True] * 28


def test_rows_of_a_loss_that_is_no_number_are_json(trained, tmp_path):
    """The step throws the weights far out: the run diverges at the next, and the probe's row says null."""
    trained(*RUN, *MLP, "optimizer.lr=1e30")
    assert summary(tmp_path / "outputs/a")["status"] == "diverged"
    lines = (tmp_path / "outputs/a/metrics.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["actual_change"] for row in found if row["kind"] == "probe"][-1] is None
