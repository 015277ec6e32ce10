"""Ensembles: probabilities, weights and pairs against computations by hand; what cannot be one is refused."""

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

from helpers.fixtures import copy_with
from helpers.runs import rows, summary, train_run
from trainopt.data import digits
from trainopt.models import MLP
from trainopt.runner import evaluate_ensemble
from trainopt.runner.analysis.checkpoints import find_checkpoints, rebuilt_runs
from trainopt.runner.analysis.ensemble import ensemble_metrics, fit_weights, pairwise_metrics
from trainopt.runner.records.job_table import write_plan
from trainopt.runner.system.display import Display
from trainopt.runner.system.errors import UserError

RUN = ("model=mlp", "model.hidden=[6]", "duration=25steps", "optimizer.lr=0.1", "logger=none")
HELD_OUT = ("data.validation=0.3", "keep_checkpoints.every=1", "checkpoint_every=10steps")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Runs of two seeds and one of a test function: a, b and f."""
    outputs = tmp_path_factory.mktemp("trained")
    for name, seed in (("a", 0), ("b", 1)):
        assert train_run(outputs / name, *RUN, *HELD_OUT, f"seed={seed}") == 0
    assert train_run(outputs / "f", "model=function", "data=none", "duration=2steps", "logger=none") == 0
    return outputs


@pytest.fixture
def two(trained_once, tmp_path, monkeypatch):
    """Two seeds, the folders outputs/a and outputs/b in the working directory."""
    monkeypatch.chdir(tmp_path)
    outputs = shutil.copytree(trained_once, tmp_path / "outputs")
    return outputs / "a", outputs / "b"


def logits_by_hand(path, images):
    """The network's logits (N, 10) for test images, in float64, without anything of the runner."""
    network = MLP((1, 8, 8), 10, hidden=[6]).double()
    network.load_state_dict(torch.load(path, weights_only=True)["model"])
    with torch.no_grad():
        return network.eval()(images)


def normalised_test_images(folder):
    """The test images of digits as the runs see them: by mean and deviation of the training images."""
    from trainopt.data import split

    data = digits()
    train, _ = split(data.y_train, 0.3, None)
    pixels = data.x_train[train] / 255
    images = (data.x_test / 255 - pixels.mean()) / pixels.std()
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(data.y_test)


def test_probabilities_are_averaged_as_by_hand(two):
    images, labels = normalised_test_images(two[0])
    logits = torch.stack([logits_by_hand(folder / "checkpoints/last.pt", images) for folder in two])
    given = torch.tensor([0.75, 0.25], dtype=torch.float64)
    found = evaluate_ensemble(two, weights=[3, 1])
    for mean, ours in (
        (logits.softmax(2).mean(0), found["ensemble"]),
        ((given[:, None, None] * logits.softmax(2)).sum(0), found["weighted"]),
    ):
        loss = -mean[torch.arange(360), labels].log().mean()
        assert ours["loss"] == pytest.approx(loss.item(), rel=1e-5)  # the runs compute logits in float32
        assert ours["top1"] == pytest.approx(100 * (mean.argmax(1) == labels).double().mean().item())
        top5 = (mean.topk(5, 1).indices == labels[:, None]).any(1).double().mean().item()
        assert ours["top5"] == pytest.approx(100 * top5)
    for member, one in zip(found["members"], logits, strict=True):
        assert member["loss"] == pytest.approx(cross_entropy(one, labels).item(), rel=1e-5)
    (pair,) = found["pairs"]
    wrong = [(one.argmax(1) != labels).numpy() for one in logits]
    assert pair["correlation"] == pytest.approx(np.corrcoef(*wrong)[0, 1])
    differ = (logits[0].argmax(1) != logits[1].argmax(1)).double().mean().item()
    assert pair["disagreement"] == pytest.approx(100 * differ)
    assert found["weighted"]["weights"] == [0.75, 0.25]


def test_members_have_the_figures_that_the_runs_recorded(two):
    found = evaluate_ensemble(two)
    for member, folder in zip(found["members"], two, strict=True):
        final = summary(folder)["final"]
        assert member["loss"] == pytest.approx(final["loss"], rel=1e-6)
        assert (member["top1"], member["top5"]) == (final["top1"], final["top5"])
    finals = [summary(folder)["final"] for folder in two]
    for key in ("loss", "top1"):
        assert found["mean_of_members"][key] == pytest.approx(sum(final[key] for final in finals) / 2)
    assert found["ensemble"]["loss"] <= found["mean_of_members"]["loss"]  # by convexity
    assert found["weighted"] is None


def test_disagreement_and_correlation_of_errors_by_hand():
    labels = np.array([0, 0, 1, 1])
    classes = np.array([[0, 1, 1, 0], [0, 1, 0, 1], [1, 2, 1, 1], [0, 0, 1, 1]])
    # wrong: [0 1 0 1], [0 1 1 0], [1 1 0 0], never
    found = {tuple(p["members"]): (p["disagreement"], p["correlation"]) for p in pairwise_metrics(classes, labels)}
    assert found == {
        (0, 1): (50.0, 0.0),
        (0, 2): (75.0, 0.0),
        (0, 3): (50.0, None),
        (1, 2): (75.0, 0.0),
        (1, 3): (50.0, None),
        (2, 3): (50.0, None),
    }
    same, opposite = np.array([[0, 1, 1, 0]] * 2), np.array([[0, 1, 1, 0], [1, 0, 0, 1]])
    assert pairwise_metrics(same, labels)[0]["correlation"] == pytest.approx(1.0)
    assert pairwise_metrics(opposite, labels)[0] == {"members": [0, 1], "disagreement": 100.0, "correlation": -1.0}


def test_equal_networks_are_an_ensemble_as_good_as_one():
    p = np.random.default_rng(0).dirichlet(np.ones(7), 50)
    labels = np.arange(50) % 7
    found = ensemble_metrics(np.stack([p, p, p]), labels, [{}, {}, {}])
    assert found["ensemble"] == pytest.approx(found["members"][0])
    assert all(pair["disagreement"] == 0 for pair in found["pairs"])


def softmax_fit(p):
    """The lowest loss by another way: weights as a softmax, so without bounds, from several starts."""

    def loss(z):
        w = np.exp(z - z.max())
        return -np.log((w / w.sum()) @ p).mean()

    starts = np.random.default_rng(0).normal(size=(4, len(p)))
    return min(
        minimize(loss, z, method="Nelder-Mead", options={"maxiter": 20_000, "maxfev": 20_000}).fun for z in starts
    )


@pytest.mark.parametrize(("count", "images"), [(2, 40), (3, 500), (4, 60)])
def test_fitted_weights_are_the_best(count, images):
    rng = np.random.default_rng(count)
    p = rng.beta(0.5 + np.arange(count)[:, None], 1.0, (count, images))  # the last is the best
    w, gap = fit_weights(p)
    ours = -np.log(w @ p).mean()
    assert w.sum() == pytest.approx(1)
    assert w.min() >= 0
    assert gap <= 1e-6
    assert ours <= softmax_fit(p) + 1e-6
    grid = [g for g in itertools.product(range(11), repeat=count) if sum(g) == 10]  # none on the simplex is better
    assert ours <= min(-np.log(np.array(g) / 10 @ p).mean() for g in grid) + 1e-6


def test_a_network_that_helps_nothing_gets_no_weight():
    p = np.full((2, 30), 0.9)
    p[1] = 0.3
    assert fit_weights(p)[0] == pytest.approx([1, 0], abs=1e-6)
    p[:, 0] = 0  # an image that both are certain to be of another class
    assert fit_weights(p)[0] == pytest.approx([1, 0], abs=1e-5)


def test_the_bound_of_a_fit_holds():
    """max_k g_k - 1 bounds how far any weights are from the best; here for those that are far."""
    p = np.random.default_rng(1).uniform(0.05, 1, (3, 100))
    best = -np.log(fit_weights(p)[0] @ p).mean()
    for w in np.random.default_rng(2).dirichlet(np.ones(3), 20):
        bound = (p / (w @ p)).mean(1).max() - 1
        assert 0 <= -np.log(w @ p).mean() - best <= bound


def test_weights_are_fitted_on_held_out_images(two, trainopt):
    result = trainopt("evaluate", "--ensemble", "outputs/a", "outputs/b", "--weights", "fit", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    weighted = found["weighted"]
    assert weighted["fitted_on"] == "validation"
    assert weighted["fit_gap"] <= 1e-6
    assert sum(weighted["weights"]) == pytest.approx(1)
    again = evaluate_ensemble(two, weights=weighted["weights"])
    for key in ("loss", "top1", "top5"):
        assert again["weighted"][key] == pytest.approx(weighted[key])


def test_snapshots_of_one_run_are_an_ensemble(two, trainopt):
    files = [f"outputs/a/checkpoints/{name}.pt" for name in ("step-00000010", "step-00000020", "last")]
    result = trainopt("evaluate", "--ensemble", *files, "--weights", "0.5,0.3,0.2")
    assert result.code == 0, result.err
    by_step = {row["step"]: row for row in rows(two[0], "test")}
    last = by_step[25]
    assert "outputs/a step-00000010, step 10" in result.out
    assert f"{last['loss']:.4f}" in result.out
    assert "0.500" in result.out
    assert "ensemble, given weights" in result.out
    found = evaluate_ensemble(files)
    assert [member["step"] for member in found["members"]] == [10, 20, 25]
    assert len(found["pairs"]) == 3
    assert all(math.isfinite(pair["disagreement"]) for pair in found["pairs"])


@pytest.mark.slow
def test_a_sweep_and_another_kind_of_network(two, tmp_path):
    sweep = (tmp_path / "outputs").rename(tmp_path / "sweep")
    jobs = [{"folder": run.name, "overrides": [], "fingerprint": ""} for run in two]
    shutil.rmtree(sweep / "f")
    write_plan(sweep, [], jobs, 1)
    images = ("data.size=16", "augmentation.flip=0.5", "data.bootstrap=true")  # of the same test images
    short = ("data.validation=0.3", "duration=2steps", "logger=none", "batching.size=32")
    assert train_run(tmp_path / "outputs/c", "model=resnet8", *images, *short) == 0
    found = evaluate_ensemble([sweep, tmp_path / "outputs/c"], checkpoint="best")
    assert len(found["members"]) == 3
    assert found["images"] == 360
    assert {member["checkpoint"] for member in found["members"]} == {"best.pt"}


def test_what_is_no_ensemble_is_refused(two, trainopt, tmp_path):
    a, _ = two
    copy_with(a, "limited", "limit: null", "limit: 300")
    copy_with(a, "synthetic", "_target_: trainopt.data.digits", "_target_: trainopt.data.synthetic")
    copy_with(a, "whole", "validation: 0.3", "validation: 0.0")
    (tmp_path / "stray.pt").write_bytes(b"")
    (tmp_path / "outputs/b/checkpoints/odd.pt").write_bytes(b"odd")
    both = ["outputs/a", "outputs/b"]
    f, whole = (["outputs/" + name, f"outputs/{name}/checkpoints/best.pt"] for name in ("f", "whole"))
    for given, message in (
        (["outputs/a"], "--ensemble: takes two or more checkpoints, got 1"),
        (["outputs/a", "outputs/a/checkpoints/last.pt"], "takes two or more checkpoints, got 1"),
        (
            ["outputs/a", "outputs/limited"],
            "outputs/limited: has other images than outputs/a: data.limit is 300 there",
        ),
        (
            ["outputs/a", "outputs/synthetic"],
            "data._target_ is trainopt.data.synthetic there, trainopt.data.digits",
        ),
        (["outputs/a", "outputs/whole"], "data.validation is 0.0 there, 0.3 here"),
        (["outputs/a", "nothing"], "nothing: no such run or checkpoint"),
        (["outputs/a", "outputs/a/checkpoints/none.pt"], "none.pt: no such run or checkpoint"),
        (["outputs/a", "outputs/b/checkpoints/odd.pt"], "odd.pt: cannot be read"),
        (["outputs/a", "outputs/b/checkpoints"], "is no run's or sweep's folder"),
        (["outputs/a", "stray.pt"], "stray.pt: is in no run's folder; a checkpoint is RUN/checkpoints/stray.pt"),
        (f, "outputs/f: is a run of a test function, which has no classes"),
        ([*whole, "--weights", "fit"], "--weights fit: needs a validation set"),
        ([*both, "--weights", "1"], "--weights 1: must be fit, or 2 numbers >= 0, one for each network, not all 0"),
        ([*both, "--weights", "1,-1"], "--weights 1,-1: must be fit, or 2 numbers"),
        ([*both, "--weights", "0,0"], "not all 0"),
        ([*both, "--weights", "nan,1"], "must be fit"),
        ([*both, "--weights", "best"], "--weights best: must be fit, or 2 numbers"),
        ([*both, "--checkpoint", "x.pt"], "--checkpoint x.pt: must be best or last"),
        ([*both, "--follow"], "--follow: is for one run"),
    ):
        result = trainopt("evaluate", "--ensemble", *given)
        assert (result.code, len(result.err.splitlines())) == (2, 1), (given, result.err)
        assert message in result.err
    for given, message in (
        (both, "evaluate: takes one run, got 2; --ensemble takes several"),
        (["outputs/a", "--weights", "fit"], "--weights: is for --ensemble"),
        (["outputs/a", "--json", "--follow"], "--json: is not for --follow"),
    ):
        result = trainopt("evaluate", *given)
        assert (result.code, message in result.err) == (2, True), result.err


def test_other_labels_in_the_files_are_noticed(trained, npz, tmp_path):
    """Of two runs that read the same file, which was another one in between."""
    contents = {}
    for name, labels in (("a", np.arange(30) % 3), ("b", (np.arange(30) + 1) % 3)):
        path = npz(y_test=labels)
        contents[name] = path.read_bytes()
        command = ("model=mlp", "data=arrays", f"data.path={path}", "duration=1steps", "logger=none")
        trained(*command, name=name)
    path.write_bytes(contents["a"])
    checkpoints = find_checkpoints([tmp_path / "outputs/a", tmp_path / "outputs/b"], "last")
    runs = rebuilt_runs(checkpoints, None, Display(quiet=True))
    next(runs)
    path.write_bytes(contents["b"])
    with pytest.raises(UserError, match="its test images have other labels than those of outputs/a"):
        next(runs)
