"""The gradient noise scale against its closed form, and the cosine between gradients."""

import pytest
import torch

from helpers.runs import closure_of_batch, double, float64_run, jacobian
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.runner.probes.gradient_noise import GradientNoiseProbe
from trainopt.runner.probes.probes import Probes

MLP = ("model=mlp", "model.hidden=[7]", "model.activation=tanh", "data.limit=60", "batching.size=12")
NOISE = ("probe=[gradient_noise]", "probe.gradient_noise.every=1steps")


class Given:
    """Matrices in the place of those of a run's steps."""

    records_step, options = False, {"benchmark": False, "share_gradients": False}

    def __init__(self, grams):
        self._grams = iter(grams)

    def prepare(self, batch):
        pass

    def matrix(self, batch):
        return next(self._grams)


def measured(grams, **options):
    """The rows of a probe that is given these matrices."""
    run = float64_run("model=mlp", "model.hidden=[]", "data.limit=20")
    probe, batch = GradientNoiseProbe(**options), next(run.batches())
    run.step_grams["batch"] = Given(grams)
    probe.attach(run)
    found = []
    for _ in grams:
        probe.before_step(run, batch)
        found.append(probe.after_step(run, batch))
    return found


def test_of_two_samples_the_estimates_are_an_inner_product_and_half_a_squared_distance():
    a, b = torch.tensor([[1.0, 2.0, 2.0], [3.0, 0.0, 1.0]], dtype=torch.float64)
    rows = torch.stack([a, b])
    (row,) = measured([rows @ rows.T])
    assert row["gradient_norm_sq"] == pytest.approx((a @ b).item())
    assert row["gradient_variance"] == pytest.approx((a - b).square().sum().item() / 2)
    assert row["noise_scale"] == row["smoothed_noise_scale"] == pytest.approx(9 / 2 / 5)


def test_many_batches_with_a_known_covariance_give_its_trace_over_the_squared_gradient():
    """g_i ~ N(G, Sigma) with |G|^2 = 4, tr(Sigma) = 24: 6; the error of the mean of 2,000 batches is about 1 %."""
    generator = torch.Generator().manual_seed(0)
    gradient = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    deviations = torch.tensor([4.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    rows = gradient + deviations * torch.randn(2000, 16, 4, dtype=torch.float64, generator=generator)
    found = measured(list(rows @ rows.mT), smoothing=0.999)
    for name, truth in (("gradient_variance", 24.0), ("gradient_norm_sq", 4.0)):
        mean = sum(row[name] for row in found) / len(found)
        assert mean == pytest.approx(truth, rel=0.05)
    assert found[-1]["smoothed_noise_scale"] == pytest.approx(6.0, rel=0.1)


def test_where_noise_covers_the_gradient_there_is_no_scale():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    (row,) = measured([rows @ rows.T])
    assert row["gradient_norm_sq"] == -1.0
    assert (row["noise_scale"], row["smoothed_noise_scale"]) == (None, None)


def test_a_batch_of_one_counts_nowhere():
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    one, alone = measured([rows @ rows.T, torch.ones(1, 1)])
    assert alone["gradient_variance"] is alone["noise_scale"] is None
    assert alone["smoothed_noise_scale"] == one["smoothed_noise_scale"]


@pytest.mark.parametrize("order", ["fisher,gradient_noise", "gradient_noise,fisher"])
def test_one_matrix_serves_both_probes_and_the_cosine_is_that_of_the_steps_gradients(monkeypatch, order):
    recorded, begin = [], GramRecorder.begin
    monkeypatch.setattr(GramRecorder, "begin", lambda self: (recorded.append(self), begin(self)))
    every = ("probe.fisher.every=2steps", "probe.gradient_noise.every=3steps")
    run = float64_run(*MLP, f"probe=[{order}]", *every)
    found, gradients, jacobians = {}, [], []

    class Kept:
        def log_probe(self, name, values):
            found[name, run.progress.step] = values

    probes, stream = Probes(run, Kept()), run.batches()
    for _ in range(6):
        batch = double(next(stream))
        jacobians.append(jacobian(run, batch))
        probes.before_step(batch)
        run.update.step(closure_of_batch(run, batch))
        run.progress.advance(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in run.network.parameters()]))
        probes.after_step(batch)
    assert sorted(found) == [
        ("fisher", 2),
        ("fisher", 4),
        ("fisher", 6),
        ("gradient_noise", 3),
        ("gradient_noise", 6),
    ]
    assert len(recorded) == 4  # at 2, 3, 4 and 6
    for step in (3, 6):
        row, j = found["gradient_noise", step], jacobians[step - 1]
        cosine = torch.cosine_similarity(gradients[step - 1], gradients[step - 2], dim=0)
        assert row["cosine"] == pytest.approx(cosine.item(), rel=1e-9)
        variance = torch.cov(j.T).trace().item()
        norm_sq = j.mean(0).square().sum().item() - variance / len(j)
        assert row["gradient_variance"] == pytest.approx(variance, rel=1e-8)
        assert row["gradient_norm_sq"] == pytest.approx(norm_sq, rel=1e-6)
    assert found["gradient_noise", 6]["gradient_variance"] == found["fisher", 6]["gradient_variance"]


def test_an_optimizer_that_needs_the_graph_has_a_scale_and_no_cosine():
    run = float64_run(*MLP, *NOISE, "optimizer=ehnewton")
    probe = run.probes["gradient_noise"]
    for batch, _ in zip(map(double, run.batches()), range(2), strict=False):
        probe.before_step(run, batch)
        run.update.step(closure_of_batch(run, batch))
        run.progress.advance(batch)
        row = probe.after_step(run, batch)
        assert row["cosine"] is None
        assert row["gradient_variance"] > 0


def test_smoothing_out_of_range_is_refused(trainopt):
    with pytest.raises(ValueError, match=r"smoothing=1: must be in \[0, 1\)"):
        GradientNoiseProbe(smoothing=1)
    result = trainopt("model=mlp", "probe=[gradient_noise]", "probe.gradient_noise.smoothing=1")
    assert "probe.gradient_noise.smoothing=1: must be in [0, 1)" in result.err
