"""What lies between checkpoints: ends, barriers, planes, statistics of batch norm, each against another way."""

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import update_bn

from helpers.fixtures import copy_with
from helpers.runs import equal, rows, summary, train_run
from trainopt.models import MLP, ResNet
from trainopt.runner import landscape
from trainopt.runner.analysis.evaluate import rebuild_run
from trainopt.runner.analysis.landscape import barrier, barycentric_coordinates, triangle
from trainopt.runner.system.display import Display

COMMON = ("duration=8steps", "data.limit=120", "batching.size=40", "logger=none", "checkpoint_every=4steps")
KINDS = {
    "mlp": ("model=mlp", "model.hidden=[6]", "optimizer.lr=0.1"),
    "resnet8": ("model=resnet8", "optimizer.lr=0.05"),  # has batch norm
}
SMALL = {"points": 3, "beyond": 0.5, "images": 90}
# The same float32 weights on the same images give the same numbers, but for batches that are summed in another
# order; so the figures of a checkpoint are those of the run to a few units in the last place of a float32.
RECORDED = 1e-6


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Runs of two seeds of each network: NAME0 and NAME1."""
    outputs = tmp_path_factory.mktemp("trained")
    for name, network in KINDS.items():
        for seed in (0, 1):
            assert train_run(outputs / f"{name}{seed}", *COMMON, *network, f"seed={seed}") == 0
    return outputs


@pytest.fixture
def runs(trained_once, tmp_path, monkeypatch):
    """For the name of a network, the runs of two seeds: outputs/NAME0 and outputs/NAME1 in the working directory."""
    monkeypatch.chdir(tmp_path)
    outputs = shutil.copytree(trained_once, tmp_path / "outputs")
    return lambda name: [outputs / f"{name}{seed}" for seed in (0, 1)]


def checkpoint(folder, name="last"):
    return torch.load(folder / f"checkpoints/{name}.pt", weights_only=True)


def images_of(folder, kind, count=90):
    """The images that a landscape looks at."""
    run = rebuild_run(folder, None, Display(quiet=True), count)
    return next(run.evaluation_sets[kind].ordered(1000))


def at(points, t):
    (found,) = [point for point in points if point["t"] == t]
    return found


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("batch_norm", ["recompute", "interpolate"])
def test_a_line_ends_in_the_two_recorded_losses(runs, name, batch_norm):
    folders = runs(name)
    before = [checkpoint(folder) for folder in folders]
    found = landscape(folders, batch_norm=batch_norm, **SMALL)
    assert found["batch_norm"] == (batch_norm if name == "resnet8" else None)
    (line,) = found["lines"]
    assert [point["t"] for point in line["points"]] == [-0.5, 0, 0.5, 1, 1.5]
    for t, folder in enumerate(folders):
        final = summary(folder)["final"]
        assert at(line["points"], t)["test_loss"] == pytest.approx(final["loss"], rel=RECORDED)
        assert at(line["points"], t)["test_error"] == pytest.approx(100 - final["top1"])
    assert all(equal(checkpoint(folder), state) for folder, state in zip(folders, before, strict=True))


def test_a_line_within_a_run_ends_in_what_its_rows_say(trained):
    """Of a checkpoint in the middle of the run, where the run was evaluated too."""
    folder = trained(*COMMON, *KINDS["resnet8"], "keep_checkpoints.every=1", "evaluate_every=4steps")
    found = landscape([folder / "checkpoints/step-00000004.pt", folder], **SMALL)
    assert [c["step"] for c in found["checkpoints"]] == [4, 8]
    recorded = {row["step"]: row["loss"] for row in rows(folder, "test")}
    points = found["lines"][0]["points"]
    assert at(points, 0)["test_loss"] == pytest.approx(recorded[4], rel=RECORDED)
    assert at(points, 1)["test_loss"] == pytest.approx(recorded[8], rel=RECORDED)


def test_between_the_ends_weights_are_means(runs):
    folders = runs("mlp")
    a, b = (checkpoint(folder)["model"] for folder in folders)
    points = landscape(folders, **SMALL)["lines"][0]["points"]
    network = MLP((1, 8, 8), 10, hidden=[6]).double()
    for t in (-0.5, 0.5, 1.5):
        network.load_state_dict({name: (1 - t) * a[name].double() + t * b[name].double() for name in a})
        for kind in ("train", "test"):
            images, labels = images_of(folders[0], kind)
            with torch.no_grad():
                logits = network(images.double())
            assert at(points, t)[f"{kind}_loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
            wrong = (logits.argmax(1) != labels).double().mean().item()
            assert at(points, t)[f"{kind}_error"] == pytest.approx(100 * wrong)


def test_distance_is_that_of_the_weights(runs):
    folders = runs("resnet8")
    networks = [ResNet(1, 10, 8, relu_after_sum=False, shortcut="average_pool") for _ in folders]
    for network, folder in zip(networks, folders, strict=True):
        network.load_state_dict(checkpoint(folder)["model"])
    one, two = (torch.nn.utils.parameters_to_vector(n.parameters()).double() for n in networks)
    (line,) = landscape(folders, **SMALL)["lines"]
    assert line["distance"] == pytest.approx((one - two).norm().item())
    assert line["relative_distance"] == pytest.approx(((one - two).norm() / one.norm()).item())


@pytest.mark.parametrize("batch_norm", ["recompute", "interpolate"])
def test_statistics_of_batch_norm_are_torchs_or_means(runs, batch_norm):
    folders = runs("resnet8")
    a, b = (checkpoint(folder)["model"] for folder in folders)
    network = ResNet(1, 10, 8, relu_after_sum=False, shortcut="average_pool")
    (line,) = landscape(folders, batch_norm=batch_norm, **SMALL)["lines"]
    (train, _), (images, labels) = (images_of(folders[0], kind) for kind in ("train", "test"))

    def loss(state):
        own = copy.deepcopy(network)
        own.load_state_dict(state)
        if batch_norm == "recompute":
            update_bn([train], own)
        with torch.no_grad():
            return cross_entropy(own.eval()(images), labels).item()

    middle = {name: (a[name] + b[name]) / 2 if a[name].is_floating_point() else a[name] for name in a}
    assert at(line["points"], 0.5)["test_loss"] == pytest.approx(loss(middle), rel=1e-4)
    if batch_norm == "recompute":
        for end, state in zip(line["ends_recomputed"], (a, b), strict=True):
            assert end["test_loss"] == pytest.approx(loss(state), rel=1e-4)
            assert end["test_loss"] != pytest.approx(cross_entropy(network.eval()(images), labels).item(), rel=1e-3)
        found = line["barriers"]["test_loss"]
        zero, one = (end["test_loss"] for end in line["ends_recomputed"])
        half = at(line["points"], 0.5)["test_loss"]
        assert found["height"] == pytest.approx(max(0.0, half - (zero + one) / 2))
    else:
        assert line["ends_recomputed"] is None


def test_variances_beyond_the_checkpoints_are_not_negative(runs):
    found = landscape(runs("resnet8"), points=3, beyond=10, images=90, batch_norm="interpolate")
    assert all(math.isfinite(point["test_loss"]) for point in found["lines"][0]["points"])


def test_barriers_of_known_functions():
    """Of (x^2 - 1)^2 between its minima -1 and 1 it is 1; with a slope added too; of a convex function it is 0."""
    t = np.linspace(0, 1, 41)
    x = 2 * t - 1
    well = (x**2 - 1) ** 2
    assert barrier(t, well) == {"height": pytest.approx(1.0), "t": pytest.approx(0.5)}
    assert barrier(t, well + 3 * x + 7) == {"height": pytest.approx(1.0), "t": pytest.approx(0.5)}
    assert barrier(t, x**2) == {"height": 0.0, "t": 0.0}
    # of 4 t^3 - 3 t^4 the chord from 0 to 1 is t: its distance is highest where 12 t^2 - 12 t^3 = 1
    t = np.linspace(0, 1, 10_001)
    roots = np.roots([-12, 12, 0, -1])
    best = max(r.real for r in roots if 0 < r.real < 1)
    expected = 4 * best**3 - 3 * best**4 - best
    assert barrier(t, 4 * t**3 - 3 * t**4)["height"] == pytest.approx(expected, rel=1e-6)
    assert barrier(np.array([0, 0.5, 1]), np.array([1.0, math.nan, 1.0])) == {"height": math.inf, "t": 0.5}


def test_coordinates_of_a_plane_are_those_of_garipov():
    """Their base vectors are computed from three points of a space of many dimensions."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 50))
    u = w[1] - w[0]
    v = (w[2] - w[0]) - (w[2] - w[0]) @ u / (u @ u) * u
    corners = triangle(*(np.linalg.norm(w[i] - w[j]) for i, j in ((0, 1), (0, 2), (1, 2))))
    for x, y in [*corners, (0.3, -2.0), (4.0, 1.0)]:
        theirs = w[0] + x * u / np.linalg.norm(u) + y * v / np.linalg.norm(v)
        assert np.allclose(barycentric_coordinates(corners, x, y) @ w, theirs, rtol=1e-12, atol=1e-12)
    for k, corner in enumerate(corners):
        assert barycentric_coordinates(corners, *corner) == pytest.approx(np.eye(3)[k], abs=1e-12)


@pytest.mark.slow
@pytest.mark.draws
def test_a_plane_goes_through_its_three_corners(trainopt, runs, tmp_path):
    folders = runs("mlp")
    third = folders[0] / "checkpoints/step-00000004.pt"
    paths = [*map(str, folders), str(third)]
    result = trainopt("landscape", *paths, "--points", "5", "--images", "90", "--out", "drawn")
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "drawn/landscape.json").read_text())
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [
        *("landscape.json", "line.pdf", "line.png", "line.svg", "plane.pdf", "plane.png", "plane.svg")
    ]
    plane = found["plane"]
    for point, folder in zip(plane["points"], folders, strict=False):
        assert point["test_loss"] == pytest.approx(summary(folder)["final"]["loss"], rel=RECORDED)
    of = [np.array([p["x"], p["y"]]) for p in plane["points"]]
    for line in found["lines"]:
        apart = np.linalg.norm(of[line["from"]] - of[line["to"]])
        assert apart == pytest.approx(line["distance"])
    assert [(line["from"], line["to"]) for line in found["lines"]] == [(0, 1), (0, 2), (1, 2)]
    assert np.array(plane["values"]["test_loss"]).shape == (5, 5)
    for axis in ("x", "y"):
        assert min(plane[axis]) < min(p[axis] for p in plane["points"])
        assert max(plane[axis]) > max(p[axis] for p in plane["points"])
    again = landscape(paths, points=5, images=90)["plane"]
    assert again["values"] == plane["values"]


def test_the_values_of_a_grid_lie_where_they_belong(runs):
    """The grid's nodes are compared with weights that are put together by hand."""
    folders = runs("mlp")
    paths = [*folders, folders[1] / "checkpoints/step-00000004.pt"]
    plane = landscape(paths, points=3, images=90)["plane"]
    states = [checkpoint(f)["model"] for f in folders] + [checkpoint(folders[1], "step-00000004")["model"]]
    w = np.array([np.concatenate([v.numpy().ravel() for v in s.values()]) for s in states], dtype=np.float64)
    u = w[1] - w[0]
    v = (w[2] - w[0]) - (w[2] - w[0]) @ u / (u @ u) * u
    images, labels = images_of(folders[0], "test")
    network = MLP((1, 8, 8), 10, hidden=[6]).double()
    for i, y in enumerate(plane["y"]):
        for j, x in enumerate(plane["x"]):
            theta = w[0] + x * u / np.linalg.norm(u) + y * v / np.linalg.norm(v)
            torch.nn.utils.vector_to_parameters(torch.from_numpy(theta), network.parameters())
            expected = cross_entropy(network(images.double()), labels).item()
            assert plane["values"]["test_loss"][i][j] == pytest.approx(expected, rel=1e-4)


def test_what_is_said_of_one_basin_and_of_a_barrier(trainopt, trained, tmp_path):
    """Two checkpoints near the end of a run, and a network whose hidden units are in another order."""
    command = ("model=mlp", "model.hidden=[16]", "duration=6epochs", "optimizer.lr=0.1", "logger=none")
    trained(*command)
    last = tmp_path / "outputs/a/checkpoints/last.pt"
    result = trainopt("landscape", "outputs/a", "outputs/a/checkpoints/step-00000060.pt", "--points", "5")
    assert result.code == 0, result.err
    assert "A–B: no barrier lies between them: they lie in one basin" in result.out
    state = torch.load(last, weights_only=True)
    first, second = (name for name in state["model"] if name.endswith("weight"))
    state["model"][first] = state["model"][first].roll(1, 0)
    state["model"][first.replace("weight", "bias")] = state["model"][first.replace("weight", "bias")].roll(1, 0)
    state["model"][second] = state["model"][second].roll(1, 1)
    torch.save(state, last.with_name("rolled.pt"))  # the same function, elsewhere
    arguments = ("landscape", "outputs/a", str(last.with_name("rolled.pt")), "--points", "5")
    result = trainopt(*arguments)
    assert "A–B: a barrier of" in result.out
    assert "points of test error lies between them" in result.out
    found = json.loads(trainopt(*arguments, "--json").out)
    assert found == json.loads((tmp_path / "outputs/landscape/landscape.json").read_text())
    (line,) = found["lines"]
    assert not line["one_basin"]
    assert at(line["points"], 0)["test_loss"] == pytest.approx(at(line["points"], 1)["test_loss"], rel=1e-5)


def test_runs_of_the_last_layer_and_bootstrap_samples(trained, runs):
    """Features are read in the place of images, and training images are those that samples were drawn from."""
    frozen = ("model=resnet8", "model.trainable=last_layer", "model.weights=outputs/resnet80/checkpoints/last.pt")
    folders = [trained(*COMMON, *frozen, "data.bootstrap=true", f"seed={seed}", name=f"last{seed}") for seed in (0, 1)]
    found = landscape(folders, **SMALL)
    assert found["batch_norm"] is None  # it is frozen
    (line,) = found["lines"]
    for t, folder in enumerate(folders):
        assert at(line["points"], t)["test_loss"] == pytest.approx(summary(folder)["final"]["loss"], rel=RECORDED)
    assert line["one_basin"]
    assert line["barriers"]["train_loss"]["height"] <= 1e-6  # softmax regression is convex


def test_what_does_not_belong_together_is_refused(trainopt, trained, runs, tmp_path):
    a, b = runs("mlp")
    copy_with(a, "wide", "hidden:\n  - 6", "hidden:\n  - 7")
    copy_with(a, "other", "limit: 120", "limit: 100")
    copy_with(a, "scaled", "mean: null", "mean:\n  - 0.5")
    trained("model=function", "data=none", "duration=2steps", "logger=none", name="f")
    states = [checkpoint(folder) for folder in (a, b)]
    mean = {name: (states[0]["model"][name] + states[1]["model"][name]) / 2 for name in states[0]["model"]}
    torch.save({**states[0], "model": mean}, a / "checkpoints/mean.pt")
    torch.save(states[0], a / "checkpoints/same.pt")
    torch.save({**states[0], "model": {}}, a / "checkpoints/empty.pt")
    two, at_a = ["outputs/mlp0", "outputs/mlp1"], "outputs/mlp0/checkpoints"
    for given, message in (
        (["outputs/mlp0"], "landscape: takes two or three checkpoints, got 1"),
        ([*two, f"{at_a}/mean.pt", f"{at_a}/same.pt"], "takes two or three checkpoints, got 4"),
        (
            ["outputs/mlp0", "outputs/wide"],
            "outputs/wide: has another network than outputs/mlp0: model.hidden is [7]",
        ),
        (["outputs/mlp0", "outputs/resnet80"], "has another network than outputs/mlp0: model._target_"),
        (
            ["outputs/mlp0", "outputs/other"],
            "has other images than outputs/mlp0: data.limit is 100 there, 120 here",
        ),
        (["outputs/mlp0", "outputs/scaled"], "data.mean is [0.5] there, None here"),
        (["outputs/mlp0", f"{at_a}/same.pt"], "same: holds the same weights as outputs/mlp0 last"),
        ([*two, f"{at_a}/mean.pt"], "lie on one line; give two of them"),
        (["outputs/mlp0", f"{at_a}/empty.pt"], "empty.pt: does not fit the network of outputs/mlp0 last"),
        (["outputs/f", "outputs/f/checkpoints/best.pt"], "is a run of a test function, which has no classes"),
        (["outputs/mlp0", "nowhere"], "nowhere: no such run or checkpoint"),
        ([*two, "--points", "2"], "--points 2: must be at least 3"),
        ([*two, "--beyond", "-1"], "--beyond -1.0: must be in [0, 10]"),
        ([*two, "--images", "1"], "--images 1: must be at least 2"),
        ([*two, "--batch-norm", "ignore"], "--batch-norm ignore: must be recompute or interpolate"),
        ([*two, "--checkpoint", "x.pt"], "--checkpoint x.pt: must be best or last"),
    ):
        result = trainopt("landscape", *given)
        assert (result.code, len(result.err.splitlines())) == (2, 1), (given, result.err)
        assert message in result.err
    assert not (tmp_path / "outputs/landscape").exists()
