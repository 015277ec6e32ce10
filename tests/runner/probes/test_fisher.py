"""The fisher probe against the singular values of gradients that are computed one by one."""

import signal
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

from helpers.runs import closure_of_batch, double, equal, float64_run, jacobian, rows, stop_at, timeless, train_run
from trainopt.data import Batching
from trainopt.optimizers import Optimizer
from trainopt.optimizers.per_sample import form_benchmark
from trainopt.optimizers.per_sample.form_benchmark import FormBenchmark
from trainopt.optimizers.per_sample.recorder import GramRecorder
from trainopt.optimizers.per_sample.spectrum import moments, spectrum
from trainopt.runner.config.contracts import complete
from trainopt.runner.probes.probes import Probes

MLP = ("model=mlp", "model.hidden=[7]", "model.activation=tanh", "data.limit=60", "batching.size=12")
FISHER = ("probe=[fisher]", "probe.fisher.every=1steps")
ALL = ("probe=[gradient_noise,taylor,fisher]", "probe.taylor.every=3steps", "probe.gradient_noise.every=2steps")


def stepped(run, steps=1):
    """Make steps with the run's probes; return their rows, and J where each step set out."""
    found, jacobians = [], []
    record = SimpleNamespace(log_probe=lambda name, values: found.append(dict(values)))
    probes, stream = Probes(run, record), run.batches()
    for _ in range(steps):
        batch = double(next(stream))
        jacobians.append(jacobian(run, batch))
        probes.before_step(batch)
        run.update.step(closure_of_batch(run, batch))
        run.progress.advance(batch)
        probes.after_step(batch)
        run.schedule.step()
    return found, jacobians


def condition(j, zero_below=1e-4):
    """c_k by a singular value decomposition."""
    sigma = torch.linalg.svdvals(j)
    kept = sigma[sigma > zero_below * sigma[0]]
    return (kept[0] / kept[-1]).item()


CASES = {
    "sgd": (*MLP, "optimizer.lr=0.3"),
    "adam": (*MLP, "optimizer=adam", "optimizer.lr=0.3"),
    "adaptive nesterov": (*MLP, "optimizer=adaptive_nesterov"),
    "ehnewton": (*MLP, "optimizer=ehnewton", "optimizer.lr=0.3"),
    "newton": (*MLP, "optimizer=newton", "optimizer.lr=0.3"),
    "a regularizer, which is not in J": (*MLP, "optimizer.lr=0.3", "regularizer=[l2]"),
    "the last layer on stored features": (*MLP, "optimizer.lr=0.3", "model.trainable=last_layer"),
    "rows of own losses, of the last layer": (
        *(*MLP, "optimizer.lr=0.3", "model.trainable=last_layer"),
        "probe.fisher.rows=own_loss",
    ),
    "rows of own losses": (*MLP, "optimizer.lr=0.3", "probe.fisher.rows=own_loss"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_measures_are_those_of_a_dense_singular_value_decomposition(case):
    run = float64_run(*case, *FISHER, "probe.fisher.spectrum=true")
    (row,), (j,) = stepped(run)
    sets_lr = getattr(run.optimizer, "sets_lr", False)
    compare(run, row, j, lr=run.optimizer.param_groups[0]["lr"] if sets_lr else 0.3)


def test_of_a_step_that_makes_several_passes_the_first_is_measured():
    run = float64_run(*MLP, *FISHER, "probe.fisher.spectrum=true")
    run.optimizer = complete(torch.optim.LBFGS(run.network.parameters(), lr=0.3, max_iter=3), Optimizer, "optimizer")
    (row,), (j,) = stepped(run)
    assert run.optimizer.state_dict()["state"][0]["func_evals"] == 3
    compare(run, row, j, lr=0.3)


def compare(run, row, j, lr):
    """Assert that a run's first row is about J."""
    sigma = torch.linalg.svd(j).S
    assert row["spectrum"] == pytest.approx(sigma.tolist(), rel=1e-7)
    assert (row["rank"], row["batch_size"]) == (12, 12)
    assert row["c_k"] == row["C_K"] == pytest.approx((sigma[0] / sigma[-1]).item(), rel=1e-7)
    assert (row["sigma_max"], row["sigma_min"]) == (row["spectrum"][0], row["spectrum"][-1])
    assert row["trace"] == pytest.approx(j.square().sum().item(), rel=1e-10)
    assert row["lr"] == lr
    assert row["l_k"] == row["L_K"] == pytest.approx(lr / 12 * j.norm().item(), rel=1e-10)
    assert row["mean_gradient_norm_sq"] == pytest.approx(j.mean(0).square().sum().item(), rel=1e-8)
    assert row["gradient_variance"] == pytest.approx(torch.cov(j.T).trace().item(), rel=1e-8)
    probe = run.probes["fisher"]
    assert probe.last == row
    torch.testing.assert_close(probe.gram, j @ j.T, rtol=1e-9, atol=1e-12)


def test_adaptive_nesterov_is_measured_where_it_looks_ahead_to():
    run = float64_run(*MLP, *FISHER, "optimizer=adaptive_nesterov")
    stepped(run)
    before = [p.detach().clone() for p in run.network.parameters()]
    with torch.no_grad():
        for p in run.network.parameters():
            p.sub_(0.9 * run.optimizer.state[p]["v"])
    batch = double(next(run.batches()))
    j = jacobian(run, batch)
    with torch.no_grad():
        for p, w in zip(run.network.parameters(), before, strict=True):
            p.copy_(w)
    (row,), _ = stepped(run)
    assert row["c_k"] == pytest.approx(condition(j), rel=1e-8)
    assert row["trace"] == pytest.approx(j.square().sum().item(), rel=1e-10)


class Halves(Batching):
    """The first half of an epoch in batches of one size, the second in batches of another."""

    def spans(self, epoch_size, offset):
        while offset < epoch_size:
            stop = min(offset + (4, 10)[2 * offset >= epoch_size], epoch_size)
            yield offset, stop
            offset = stop


def test_c_and_l_so_far_are_mean_and_sum_over_steps_of_all_sizes_and_rates():
    """every=3steps of 30: each l_k stands for the steps around it too."""
    falling = (
        "optimizer.lr=0.2",
        "schedule=exponential",
        "schedule.gamma=0.8",
        "schedule.every=3steps",
        "schedule.staircase=false",
    )
    run = float64_run(*MLP, *falling, "probe=[fisher]", "probe.fisher.every=3steps")
    run.batching = Halves()
    found, jacobians = stepped(run, 30)
    assert len(found) == 10
    assert {len(j) for j in jacobians} == {4, 8, 10}
    c, l_ = 0.0, 0.0
    for n, row in enumerate(found, start=1):
        j = jacobians[3 * n - 1]
        lr = 0.2 * 0.8 ** ((3 * n - 1) / 3)
        c += condition(j)
        l_ += lr / len(j) * j.norm().item()
        assert row["step"] == 3 * n
        assert row["lr"] == pytest.approx(lr)
        assert row["C_K"] == pytest.approx(c / n, rel=1e-6)
        assert row["L_K"] == pytest.approx(l_ / (n / (3 * n)), rel=1e-9)


@pytest.mark.parametrize("definition", ["batch", "own_loss"])
def test_with_batch_norm_the_rows_of_both_definitions_have_the_mean_gradient(definition):
    run = float64_run("model=resnet8", "data.limit=60", "batching.size=12", *FISHER, f"probe.fisher.rows={definition}")
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    batch = double(next(run.batches()))
    probe = run.probes["fisher"]
    probe.before_step(run, batch)
    if definition == "own_loss":  # a pass of its own, which leaves no trace
        assert equal(before, dict(run.network.state_dict()))
    closure_of_batch(run, batch)()
    run.progress.advance(batch)
    row = probe.after_step(run, batch)
    norm_sq = sum(p.grad.square().sum().item() for p in run.network.parameters())
    assert row["mean_gradient_norm_sq"] == pytest.approx(norm_sq, rel=1e-9)


@pytest.mark.parametrize(
    ("singular_values", "options", "rank", "expected"),
    [
        ([3.0, 1e-2, 1e-5], {}, 2, 300.0),
        ([3.0, 1e-2, 1e-5], {"zero_below": 0.0}, 3, 3e5),
        ([3.0, 1e-2, 1e-5], {"zero_below": 0.5}, 1, 1.0),
        ([3.0, 1e-2, 0.0], {"zero_below": 0.0}, 2, 300.0),
    ],
)
def test_what_counts_as_zero_is_relative_or_exact(singular_values, options, rank, expected):
    gram = torch.diag(torch.tensor(singular_values, dtype=torch.float64).square())
    found = spectrum(gram, **options)
    assert found.rank == rank
    assert found.condition == pytest.approx(expected)
    assert found.values == pytest.approx(singular_values)


def test_what_rounding_makes_negative_is_zero():
    gram = torch.diag(torch.tensor([4.0, 1.0, -1e-9], dtype=torch.float64))
    assert spectrum(gram, 0.0) == ([2.0, 1.0, 0.0], 2, 2.0, 1.0)


def test_gradients_that_all_vanish_have_no_condition():
    found = spectrum(torch.zeros(3, 3))
    assert (found.rank, found.largest) == (0, 0.0)
    assert found.condition != found.condition
    assert moments(torch.ones(1, 1)).variance != moments(torch.ones(1, 1)).variance


def test_a_step_that_cannot_be_measured_is_null_and_counts_nowhere():
    run = float64_run(*MLP, *FISHER, "probe.fisher.spectrum=true")
    (one,), _ = stepped(run)
    probe, batch = run.probes["fisher"], double(next(run.batches()))
    probe.before_step(run, batch)
    run.progress.advance(batch)
    row = probe.after_step(run, batch)  # of a step that made no pass
    assert {row[name] for name in ("c_k", "l_k", "trace", "rank", "sigma_min", "gradient_variance")} == {None}
    assert (row["C_K"], row["L_K"]) == (one["C_K"], pytest.approx(2 * one["L_K"]))
    assert run.objective.network is run.network  # and nothing waits for a pass any more


def test_samples_that_are_twice_in_a_batch_are_found_in_float32():
    run = float64_run("model=resnet8", "data.limit=60", "batching.size=32", *FISHER)
    run.network.float()
    batch = next(run.batches())
    inputs, targets = batch.inputs.clone(), batch.targets.clone()
    inputs[:6], targets[:6] = inputs[6:12], targets[6:12]
    recorder = GramRecorder(run.network)
    with recorder.recording():
        cross_entropy(run.network(inputs), targets).backward()
    assert spectrum(recorder.gram()).rank == 26


@pytest.mark.slow
def test_the_study_measures_steps_1_51_101_of_every_epoch_and_so_does_a_run_that_goes_on(
    trained, tmp_path, monkeypatch
):
    sampling = [f"probe.{name}.{key}" for name in ("fisher", "gradient_noise") for key in STUDY]
    command = ("model=mlp", "data.limit=300", "augmentation.flip=0.5", "batching.size=4", "duration=2.5epochs")
    command = (*command, "probe=[fisher,gradient_noise]", *sampling, "checkpoint_every=20steps", "logger=none")
    trained(*command, name="whole")
    stop_at(monkeypatch, 50, 75, 77, 130)
    for _ in range(4):
        assert train_run(tmp_path / "outputs/parts", *command) == 128 + signal.SIGINT
    one, other = tmp_path / "outputs/whole", trained(*command, name="parts")
    for name in ("fisher", "gradient_noise"):
        found = [row["step"] for row in rows(one, "probe") if row["probe"] == name]
        assert found == [1, 51, 76, 126, 151]
    assert timeless(rows(one)) == timeless(rows(other))
    kept = [torch.load(f / "checkpoints/last.pt", weights_only=True)["probes"] for f in (one, other)]
    assert equal(*kept)
    assert kept[0]["fisher"]["last"]["step"] == 151
    cosines = [row["cosine"] for row in rows(one, "probe") if row["probe"] == "gradient_noise"]
    assert [value is None for value in cosines] == [True, False, False, False, False]


STUDY = ("every=50steps", "each_epoch=true")
RUNS = {
    "sgd, batch norm": ("model=resnet8", "data.limit=80", "batching.size=16"),
    "ehnewton, dropout": ("model=mlp", "model.dropout=0.3", "data.limit=200", "optimizer=ehnewton"),
    "adaptive nesterov, own losses": (
        *("model=resnet8", "data.limit=80", "batching.size=16", "optimizer=adaptive_nesterov"),
        "probe.fisher.rows=own_loss",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNS.values(), ids=RUNS)
def test_a_run_with_all_probes_is_the_run_without(trained, tmp_path, case):
    command = ("duration=6steps", "log_every=1steps", "logger=none", "augmentation.flip=0.5")
    plain = [part for part in case if not part.startswith("probe")]
    trained(*command, *plain, name="without")
    trained(*command, *case, *ALL, "probe.fisher.every=1steps", name="with")
    one, other = tmp_path / "outputs/without", tmp_path / "outputs/with"
    assert timeless(rows(one)) == timeless([row for row in rows(other) if row["kind"] != "probe"])
    states = [torch.load(f / "checkpoints/last.pt", weights_only=True) for f in (one, other)]
    for state in states:
        del state["clocks"], state["record"], state["probes"]
    assert equal(*states)  # weights, buffers, the optimizer's state, generators, counts
    probed = [(row["step"], row["probe"]) for row in rows(other, "probe")]
    assert sorted(probed) == sorted(
        [(k, "fisher") for k in range(1, 7)]
        + [(k, "gradient_noise") for k in (2, 4, 6)]
        + [(3, "taylor"), (6, "taylor")]
    )


@pytest.mark.slow
def test_forms_chosen_by_timing_are_those_of_the_run_that_goes_on(trained, tmp_path, monkeypatch):
    """The clock of the process that goes on would choose another form."""
    command = ("model=resnet8", "data.limit=80", "batching.size=16", "duration=6steps", "logger=none", *FISHER)
    command = (*command, "probe.fisher.benchmark=true", "checkpoint_every=1steps")

    def let_win(form_name):
        add = FormBenchmark.add

        def add_named(self, total, layer, forms):
            for name, form in forms.items():
                form.name = name
            return add(self, total, layer, forms)

        monkeypatch.setattr(form_benchmark, "_seconds", lambda form, total: 1.0 if form.name == form_name else 2.0)
        monkeypatch.setattr(FormBenchmark, "add", add_named)

    let_win("unfold")
    one = trained(*command, name="whole")
    stop_at(monkeypatch, 3)
    assert train_run(tmp_path / "outputs/parts", *command) == 128 + signal.SIGINT
    let_win("groups")
    other = trained(*command, name="parts")
    assert timeless(rows(one)) == timeless(rows(other))
    saved = [torch.load(f / "checkpoints/last.pt", weights_only=True)["probes"] for f in (one, other)]
    states = [probes["fisher"]["forms"] for probes in saved]
    assert states[0] == states[1]
    assert {timing["batches"] for timing in states[0].values()} == {2}


@pytest.mark.slow
@pytest.mark.parametrize("case", [(), ("batching=norm_test", "optimizer=adaptive_nesterov")], ids=["sgd", "norm test"])
def test_a_step_that_takes_gradients_from_the_probe_is_the_step_up_to_rounding(trained, tmp_path, monkeypatch, case):
    command = ("model=resnet8", "data.limit=80", "batching.size=16", "duration=6steps", "logger=none", *FISHER, *case)
    command = (*command, "log_every=1steps", "checkpoint_every=1steps", "probe.fisher.every=2steps")
    plain = trained(*command, name="plain")
    command = (*command, "probe.fisher.share_gradients=true")
    one = trained(*command, name="whole")
    for key in ("trace", "mean_gradient_norm_sq", "c_k"):
        values, expected = ([row[key] for row in rows(folder, "probe")] for folder in (one, plain))
        assert len(values) == 3
        assert values[0] == expected[0]  # of the same weights
        assert values != expected
        assert values == pytest.approx(expected, rel=1e-3)
    stop_at(monkeypatch, 3)
    assert train_run(tmp_path / "outputs/parts", *command) == 128 + signal.SIGINT
    other = trained(*command, name="parts")
    assert timeless(rows(one)) == timeless(rows(other))
    assert equal(*(torch.load(f / "checkpoints/last.pt", weights_only=True)["model"] for f in (one, other)))


@pytest.mark.slow
@pytest.mark.draws
def test_a_picture_and_the_help_page_come_by_themselves(trainopt, tmp_path):
    result = trainopt("model=mlp", "duration=30steps", "probe=[fisher]", "logger=none", "hydra.run.dir=run")
    assert "fisher.png" in result.out
    assert (tmp_path / "run/fisher.png").stat().st_size > 10_000
    assert "zero_below: 1e-4" in trainopt("--help", "probe=[fisher]").out
