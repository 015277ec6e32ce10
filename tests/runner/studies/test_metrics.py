"""The metrics of a study, against numbers computed by hand from synthetic runs, and against the commands' own."""

import json
import math
import shutil
from pathlib import Path

import pytest

from helpers.fixtures import made_up_sweep
from trainopt.runner.analysis import ensemble
from trainopt.runner.analysis import landscape as landscapes
from trainopt.runner.studies.checkpoint_metrics import ResultCache
from trainopt.runner.studies.metrics import MetricReader
from trainopt.runner.studies.plan import SweepState
from trainopt.runner.studies.schema import Scale, Study, StudySweep
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.files import shown

ADAM = {"choices": {"optimizer": "adam"}, "config": {"optimizer.lr": 0.001}}
SGD = {"choices": {"optimizer": "sgd"}, "config": {"optimizer.lr": 0.1}}
CURVE = [10.0, 50.0, 80.0, 70.0, 75.0]  # at 0, 10, … 40 steps, 0 to 4 epochs


def reader_of(folder, state="done", reason=None, typed=("smoke",)):
    """Returns a reader of metrics of one sweep, `methods`, at scale smoke."""
    sweep = StudySweep({scale: [] for scale in typed})
    study = Study("made_up", "", "", {"smoke": Scale("")}, {"methods": sweep}, {}, [], [], [])
    sweeps = {"methods": SweepState(folder / "methods", state, reason)}
    return MetricReader(study, "smoke", sweeps, ResultCache(folder / "cache.json"))


def read(folder, where=None, state="done", reason=None, **source):
    return reader_of(folder, state, reason).read({"sweep": "methods", "where": where or {}, **source})


@pytest.fixture
def two_methods(tmp_path):
    """Adam with seeds 0 to 2, SGD with seeds 0 and 1."""
    runs = [{**ADAM, "seed": seed, "curve": CURVE, "loss": 0.3 + 0.25 * seed} for seed in range(3)]
    runs += [{**SGD, "seed": seed, "top1": 60.0, "loss": 0.5} for seed in range(2)]
    made_up_sweep(tmp_path / "methods", runs)
    return tmp_path


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("final.top1", {0: 75.0, 1: 75.0, 2: 75.0}),
        ("final.loss", {0: 0.3, 1: 0.55, 2: 0.8}),
        ("best_top1.value", {0: 80.0, 1: 80.0, 2: 80.0}),
        ("best_top1.epoch", {0: 4.0, 1: 4.0, 2: 4.0}),
        ("best_top5.value", {0: 99.0, 1: 99.0, 2: 99.0}),
        ("train_seconds", {0: 8.0, 1: 8.0, 2: 8.0}),
    ],
)
def test_a_column_of_the_summary_has_a_value_a_seed(two_methods, column, values):
    result = read(two_methods, {"optimizer": "adam"}, value=column)
    assert result.values == values
    assert result.unavailable is None


@pytest.mark.parametrize(
    ("way", "number"),
    [
        ({"take": "last"}, 75.0),
        ({"take": "first"}, 10.0),
        ({"take": "max"}, 80.0),
        ({"take": "min"}, 10.0),
        ({"take": "mean"}, 57.0),
        ({"take": "sum"}, 285.0),
        ({"at": "20steps"}, 80.0),
        ({"at": "29steps"}, 80.0),
        ({"at": "1.5epochs"}, 50.0),
        ({"at": "300samples"}, 70.0),
        ({"at": "5seconds"}, 80.0),
        ({"reach": 75}, 20.0),
        ({"reach": 75, "axis": "steps"}, 20.0),
        ({"reach": 75, "axis": "epochs"}, 2.0),
        ({"reach": 75, "axis": "samples"}, 200.0),
        ({"reach": 75, "axis": "seconds"}, 4.0),
        ({"reach": 75, "axis": "gradients"}, 20.0),
        ({"reach": 80.5}, math.inf),
        ({"fall_to": 10}, 0.0),
        ({"fall_to": 5}, math.inf),
    ],
)
def test_rows_become_a_number(two_methods, way, number):
    result = read(two_methods, {"optimizer": "adam"}, row={"kind": "test", "column": "top1", **way})
    assert result.values == {0: number, 1: number, 2: number}
    assert result.finite_count == (0 if number == math.inf else 3)


def test_rows_of_other_kinds_and_columns_are_found_too(tmp_path):
    made_up_sweep(tmp_path / "methods", [{**SGD, "hvps": 5, "reports": {"power": 2.0}}])
    assert read(tmp_path, row={"kind": "train", "column": "power", "take": "sum"}).values == {0: 8.0}
    lr = read(tmp_path, row={"kind": "train", "column": "lr", "at": "2epochs"})
    assert lr.values == {0: pytest.approx(0.05)}
    dear = read(tmp_path, row={"kind": "test", "column": "top1", "reach": 72, "axis": "gradients"})
    assert dear.values == {0: 20 + 2 * 10}  # a Hessian-vector product counts as two gradients


def test_diverged_runs_count_as_networks_that_know_nothing(tmp_path):
    runs = [{**SGD, "seed": seed, "status": "diverged" if seed else "finished"} for seed in range(2)]
    made_up_sweep(tmp_path / "methods", runs)
    final = read(tmp_path, value="final.top1")
    assert (final.values, final.diverged) == ({0: 90.0, 1: 10.0}, 1)
    assert read(tmp_path, value="final.loss").values[1] == pytest.approx(math.log(10))
    rows = {"kind": "test", "column": "top1"}
    assert read(tmp_path, row={**rows, "take": "max"}).values == {0: 90.0, 1: 10.0}
    assert read(tmp_path, row={**rows, "at": "1epochs"}).values == {0: 45.0, 1: 10.0}
    assert read(tmp_path, row={**rows, "reach": 40}).values == {0: 10.0, 1: math.inf}
    assert read(tmp_path, row={"kind": "train", "column": "lr", "take": "first"}).values == {0: 0.1, 1: 0.1}
    snapshots = read(tmp_path, ensemble={"of": "checkpoints", "value": "top1"})
    assert snapshots.unavailable == "1 of 2 runs diverged, and their weights have no use"


@pytest.mark.parametrize("where", [{"optimizer.steps": 20}, {"optimizer.steps": "20"}, {"choices.optimizer": "adam"}])
def test_values_are_compared_as_they_are_typed(tmp_path, where):
    newton = {"choices": {"optimizer": "adam"}, "config": {"optimizer.steps": 20}}
    made_up_sweep(tmp_path / "methods", [{**newton, "top1": 70.0}, {**SGD, "top1": 60.0}])
    assert read(tmp_path, where, value="final.top1").values == {0: 70.0}


def test_runs_of_several_versions_of_a_file_have_no_metric(tmp_path):
    code = [{"code": [{"files": {"mine.py": digest * 8}}]} for digest in "abb"]
    runs = [{**ADAM, "seed": seed, "environment": code[seed]} for seed in range(3)]
    made_up_sweep(tmp_path / "methods", [*runs, *({**SGD, "seed": seed} for seed in range(3))])
    unavailable = read(tmp_path, {"optimizer": "adam"}, value="final.top1").unavailable
    assert unavailable.startswith("different code: mine.py is aaaaaaaa in ")
    assert "; bbbbbbbb in " in unavailable
    later = read(tmp_path, {"optimizer": "adam", "seed": 1}, value="final.top1")
    assert later.unavailable == unavailable  # other metrics of the study have runs of the other version
    assert read(tmp_path, {"optimizer": "sgd"}, value="final.top1").values == {0: 90.0, 1: 90.0, 2: 90.0}


def test_a_sweep_with_runs_whose_files_do_not_agree_has_no_metric(tmp_path):
    made_up_sweep(tmp_path / "methods", [{**ADAM, "seed": 0}, {**SGD, "seed": 0}, {**SGD, "seed": 1}])
    paths = sorted(tmp_path.glob("methods/*adam*/run.yaml"))
    paths[0].write_text(paths[0].read_text().replace("seed: 0", "seed: 1"))
    (run,) = (shown(path.parent) for path in paths)
    line = f"{run} has another configuration in run.yaml than it ran with, by the fingerprint in summary.json"
    line += " (seed=1 instead of 0)"
    for where in ({"optimizer": "adam"}, {"optimizer": "sgd"}):
        assert read(tmp_path, where, value="final.top1").unavailable == line
    other = "; the files of 1 other run do not agree either"
    path = next(tmp_path.glob("methods/*sgd*/summary.json"))
    path.write_text(path.read_text().replace('"top1": 90.0', '"top1": 99.0'))
    assert read(tmp_path, {"optimizer": "sgd"}, value="final.top1").unavailable == f"{line}{other}"


def test_trials_of_a_search_are_no_runs_of_a_figure(tmp_path):
    made_up_sweep(tmp_path / "methods", [{**SGD, "top1": 60.0}], [{**SGD, "seed": 7, "top1": 50.0}])
    assert read(tmp_path, value="final.top1").values == {0: 60.0}


def test_runs_that_are_missing_keep_figures_from_a_verdict_that_they_may_belong_to(tmp_path):
    runs = [{**ADAM, "seed": seed, "status": "failed" if seed == 2 else "finished"} for seed in range(3)]
    runs += [{**ADAM, "seed": 3, "status": "missing"}, {**SGD, "seed": 0}]
    made_up_sweep(tmp_path / "methods", runs)
    adam = read(tmp_path, {"optimizer": "adam"}, "incomplete", "2 of 5 runs are not done", value="final.top1")
    assert adam.unavailable == "2 of 4 runs of the sweep methods failed or never ended"
    assert list(adam.values) == [0, 1]
    assert read(tmp_path, {"optimizer": "sgd"}, "incomplete", "2 of 5", value="final.top1").unavailable is None
    assert read(tmp_path, {"seed": 3}, "incomplete", "2 of 5 runs are not done", value="final.top1").unavailable == (
        "2 of 5 runs are not done"
    )


def test_a_key_that_only_missing_runs_have_is_no_mistake(tmp_path):
    newton = {"choices": {"optimizer": "newton"}, "config": {"optimizer.steps": 20}, "status": "missing"}
    made_up_sweep(tmp_path / "methods", [newton, SGD])
    assert read(tmp_path, {"optimizer.steps": 20}, "incomplete", "1 of 2", value="final.top1").unavailable == "1 of 2"


def test_what_was_not_run_says_why(two_methods):
    metric = {"sweep": "methods", "value": "final.top1"}
    other = reader_of(two_methods, typed=["paper"]).read(metric)
    assert other.unavailable == "part of scale paper only"
    missing = "mnist is missing: put mnist.npz into DIR"
    assert reader_of(two_methods, "not_run", missing).read(metric).unavailable == missing


def test_a_figure_that_is_no_number_in_some_runs_is_none(tmp_path):
    made_up_sweep(tmp_path / "methods", [{**SGD, "seed": 0}, {**SGD, "seed": 1, "summary": {"final": {"top1": None}}}])
    assert read(tmp_path, value="final.top1").unavailable == "1 of 2 runs have no such value"


def test_runs_that_end_before_a_place_have_no_number_there(two_methods):
    row = {"kind": "test", "column": "top1"}
    assert read(two_methods, {"optimizer": "sgd"}, row={**row, "at": "4epochs"}).values == {0: 60.0, 1: 60.0}
    early = read(two_methods, {"optimizer": "sgd"}, row={**row, "at": "41steps"})
    assert early.unavailable == "2 of 2 runs ended before 41steps, or have no record before it"


def test_a_key_of_runs_that_an_unfinished_search_will_add_is_no_mistake(two_methods):
    result = read(two_methods, {"optimizer.steps": 20}, "incomplete", "the search goes on", value="final.top1")
    assert result.unavailable == "the search goes on"


ROW = {"kind": "test", "column": "top1", "take": "last"}


@pytest.mark.parametrize(
    ("where", "what", "says"),
    [
        ({"optimzer": "adam"}, {"value": "final.top1"}, "where: optimzer: none of the runs .* mean optimizer"),
        ({"optimizer": "adma"}, {"value": "final.top1"}, "has optimizer=adma; there are optimizer=adam, sgd"),
        ({}, {"value": "final.top1"}, "differ in more than their seed; add one of: optimizer=adam, sgd"),
        (
            {"optimizer": "sgd"},
            {"value": "final.top"},
            "final.top: no such value in summary.json; did you mean final.top.. there are, among others, final.top1",
        ),
        ({"optimizer": "sgd"}, {"value": "status"}, "value: status: is not a number"),
        ({"optimizer": "sgd"}, {"row": "test"}, "row: must be keys and values, and is test"),
        (
            {"optimizer": "sgd"},
            {"row": {**ROW, "kind": "tst"}},
            "row: kind: tst: no such records; there are test, train",
        ),
        (
            {"optimizer": "sgd"},
            {"row": {**ROW, "column": "top"}},
            "row: column: top: records of kind test have no such column; did you mean top5. there are",
        ),
        ({"optimizer": "sgd"}, {"row": {**ROW, "take": "median"}}, "row: take: must be one of last, first"),
        ({"optimizer": "sgd"}, {"row": {**ROW, "reach": 80}}, "row: must have one of .* and has take, reach"),
        ({"optimizer": "sgd"}, {"row": {"kind": "test", "column": "top1"}}, "row: must have one of .* none"),
        ({"optimizer": "sgd"}, {"row": {"kind": "test", "take": "last"}}, "row: column: is missing"),
        ({"optimizer": "sgd"}, {"row": {**ROW, "colour": 1}}, "row: colour: unknown key"),
        ({"optimizer": "sgd"}, {"row": {**ROW, "axis": "steps"}}, "axis: belongs to reach and fall_to"),
        (
            {"optimizer": "sgd"},
            {"row": {"kind": "test", "column": "top1", "at": "soon"}},
            "at: must be as 300steps",
        ),
        ({"optimizer": "sgd"}, {"row": {"kind": "test", "column": "top1", "at": "xsamples"}}, "at: must be as"),
        (
            {"optimizer": "sgd"},
            {"row": {"kind": "test", "column": "top1", "reach": "a"}},
            "reach: must be a number",
        ),
        (
            {"optimizer": "sgd"},
            {"row": {"kind": "test", "column": "top1", "reach": 1, "axis": "days"}},
            "axis: must be one of steps, epochs",
        ),
        ({"optimizer": "sgd"}, {"ensemble": {"of": "runs"}}, "ensemble: of: must be checkpoints or seeds"),
        ({"optimizer": "sgd"}, {"ensemble": {"of": "seeds", "value": "top1"}}, "ensemble: size: is missing"),
        (
            {"optimizer": "sgd"},
            {"ensemble": {"of": "seeds", "size": 1, "value": "top1"}},
            "size: must be an integer",
        ),
        ({"optimizer": "sgd"}, {"ensemble": {"of": "checkpoints", "value": "top1"}}, "has no checkpoint"),
        (
            {"optimizer": "sgd"},
            {"landscape": {"between": [0], "value": "distance"}},
            "between: must be two indices",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(two_methods, where, what, says):
    with pytest.raises(UserError, match=says) as error:
        read(two_methods, where, **what)
    assert "\n" not in str(error.value)


RUN = ("-m", "model=mlp", "model.hidden=[6]", "duration=20steps", "optimizer.lr=0.1", "logger=none", "seed=0,1,2")
SNAPSHOTS = ("keep_checkpoints.every=1", "checkpoint_every=10steps", "hydra.sweep.dir=methods")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def snapshots(trainopt, trained, tmp_path):
    """Three runs with checkpoints after 10 and 20 steps, made once; the sweep `methods` in the scratch folder."""
    if not (trained / "methods").exists():
        assert trainopt(*RUN, *SNAPSHOTS).code == 0
        shutil.copytree(tmp_path / "methods", trained / "methods")
    else:
        shutil.copytree(trained / "methods", tmp_path / "methods")
    return sorted(path.parent for path in (tmp_path / "methods").glob("*/run.yaml"))


@pytest.mark.slow
def test_ensembles_are_those_of_the_command(trainopt, snapshots, tmp_path):
    folder = snapshots[1] / "checkpoints"
    command = ("evaluate", str(folder / "step-00000010.pt"), str(folder / "last.pt"), "--ensemble", "--json")
    of_one = json.loads(trainopt(*command).out)
    names = {
        "top1": of_one["ensemble"]["top1"],
        "ensemble.loss": of_one["ensemble"]["loss"],
        "mean_of_members.top1": of_one["mean_of_members"]["top1"],
        "disagreement": of_one["pairs"][0]["disagreement"],
        "pairs.correlation": of_one["pairs"][0]["correlation"],
    }
    for name, number in names.items():
        result = read(tmp_path, ensemble={"of": "checkpoints", "which": [-2, -1], "value": name})
        assert list(result.values) == [0, 1, 2]
        assert result.values[1] == number
    of_two = json.loads(trainopt("evaluate", *map(str, snapshots[:2]), "--ensemble", "--json").out)
    of_seeds = read(tmp_path, ensemble={"of": "seeds", "size": 2, "value": "ensemble.loss"})
    assert of_seeds.values == {0: of_two["ensemble"]["loss"]}  # one run is left over
    few = read(tmp_path, ensemble={"of": "seeds", "size": 4, "value": "top1"})
    assert few.unavailable == "3 runs are too few for an ensemble"


def test_lines_are_those_of_the_command(trainopt, snapshots, tmp_path):
    ends = [str(snapshots[0] / "checkpoints" / name) for name in ("step-00000010.pt", "last.pt")]
    given = ("landscape", *ends, "--points", "3", "--images", "50", "--json", "--out", str(tmp_path / "out"))
    (line,) = json.loads(trainopt(*given).out)["lines"]
    for name, number in {
        "distance": line["distance"],
        "barriers.test_error": line["barriers"]["test_error"]["height"],
        "barriers.train_loss.t": line["barriers"]["train_loss"]["t"],
        "one_basin": float(line["one_basin"]),
    }.items():
        result = read(tmp_path, landscape={"between": [0, -1], "points": 3, "images": 50, "value": name})
        assert result.values[0] == number


def test_what_was_computed_from_checkpoints_is_not_computed_again(snapshots, tmp_path, monkeypatch):
    asked = {"of": "checkpoints", "which": [0, 1], "value": "top1"}
    between = {"between": [0, 1], "points": 3, "images": 50, "value": "distance"}
    first = read(tmp_path, ensemble=asked), read(tmp_path, landscape=between)
    calls = []

    def counted(original):
        def called(paths, **more):
            calls.append([Path(path).name for path in paths])
            return original(paths, **more)

        return called

    monkeypatch.setattr(ensemble, "evaluate_ensemble", counted(ensemble.evaluate_ensemble))
    monkeypatch.setattr(landscapes, "landscape", counted(landscapes.landscape))
    assert (read(tmp_path, ensemble=asked), read(tmp_path, landscape=between)) == first
    assert calls == []
    touched = snapshots[2] / "checkpoints/step-00000010.pt"
    touched.write_bytes(touched.read_bytes())
    assert read(tmp_path, ensemble=asked) == first[0]
    assert calls == [["step-00000010.pt", "last.pt"]]  # of one of the three runs


def test_what_is_no_longer_asked_for_is_dropped(snapshots, tmp_path):
    read(tmp_path, ensemble={"of": "checkpoints", "which": [0, 1], "value": "top1"})
    reader = reader_of(tmp_path)
    asked = {"of": "seeds", "size": 2, "value": "top1"}
    reader.read({"sweep": "methods", "ensemble": asked})
    reader.cache.prune()
    (entry,) = json.loads((tmp_path / "cache.json").read_text())["results"]
    assert [Path(place["path"]).name for place in entry["checkpoints"]] == ["last.pt", "last.pt"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            {"ensemble": {"of": "checkpoints", "which": [7, 0], "value": "top1"}},
            "7: the runs have 2 checkpoints, 0 to 1",
        ),
        ({"ensemble": {"of": "checkpoints", "which": 0, "value": "top1"}}, "which: must be a list, and is 0"),
        (
            {"ensemble": {"of": "checkpoints", "which": [0, 1], "value": "top"}},
            "value: top: no such value; there are",
        ),
        ({"ensemble": {"of": "checkpoints", "which": [0], "value": "top1"}}, "takes two or more checkpoints"),
        ({"landscape": {"between": [0, 0], "value": "distance"}}, "landscape: takes two or three"),
    ],
)
def test_checkpoints_that_are_not_there_are_said_in_one_line(snapshots, tmp_path, what, says):
    with pytest.raises(UserError, match=says):
        read(tmp_path, **what)
