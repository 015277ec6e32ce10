"""`trainopt benchmark`: the whole command on tiny workloads."""

import json
import os
import signal
import time

import pytest

from helpers.cli import exit_code, forked, start_fork
from trainopt.runner.commands.benchmark.benchmark import make_plan, parser
from trainopt.runner.system.errors import UserError

SUITE = """
title: Tiny
full: {trials: 2, studies: 2}
quick: {trials: 1, studies: 1}
submissions: [optimizer=sgd, optimizer=adamw]
overrides: [data=synthetic, data.train_size=64, data.test_size=16, data.validation=0.25, model=mlp, logger=none]
workloads:
  mlp:
    about: two hidden layers
    overrides: [duration=4epochs, evaluate_every=1epochs]
    metric: validation_loss
    direction: minimize
    target: 2.0
  linear:
    about: a linear classifier
    overrides: ['model.hidden=[]', duration=3epochs, evaluate_every=1epochs]
    metric: validation_top1
    direction: maximize
    target: 20.0
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine/suite").mkdir(parents=True)
    (tmp_path / "mine/suite/tiny.yaml").write_text(SUITE)
    return tmp_path


def benchmark(folder, *words):
    return forked("benchmark", "tiny", "--config-dir", "mine", "--launcher", "basic", *words, folder=folder)


def output(folder):
    text = (folder / "output").read_text()
    (folder / "output").write_text("")
    return text


def content(folder):
    return json.loads((folder / "outputs/benchmark/tiny/benchmark.json").read_text())


def runs(folder):
    """The finished runs of a benchmark, with what tells whether one was made again."""
    paths = (folder / "outputs/benchmark/tiny/sweeps").rglob("summary.json")
    return {str(path.parent): path.stat().st_mtime_ns for path in paths if '"finished"' in path.read_text()}


@pytest.mark.slow
@pytest.mark.draws
def test_quick_then_whole_then_once_more(folder):
    assert benchmark(folder, "--quick") == 0, output(folder)
    quick = runs(folder)
    assert len(quick) == 4  # 2 workloads x 2 submissions x 1 study x 1 trial
    assert "A single study says nothing" in output(folder)
    assert benchmark(folder, "--trials", "2", "--studies", "1") == 0, output(folder)
    whole = runs(folder)
    assert len(whole) == 8
    assert quick.items() <= whole.items()  # their runs were used again
    result = content(folder)
    assert set(result["ranking"]) == {"sgd", "adamw"}
    assert result["labels"] == {"sgd": "SGD", "adamw": "AdamW"}
    assert all((folder / "outputs/benchmark/tiny" / name).stat().st_size for name in ("profile.svg", "profile.png"))
    assert result["times"]["steps"]["sgd"]["linear"]
    text = output(folder)
    assert "studies done" not in text
    assert "report.html" in text
    assert benchmark(folder, "--trials", "2", "--studies", "1") == 0
    assert "4 of 4 studies done" in output(folder)
    assert runs(folder) == whole


@pytest.mark.slow
def test_killed_and_continued_is_the_result_that_it_would_have_been(folder):
    words = ("benchmark", "tiny", "--config-dir", "mine", "--launcher", "basic", "optimizer=sgd", "--studies", "1")
    process = start_fork(*words, folder=folder)
    while len(runs(folder)) < 1:
        time.sleep(0.05)
    before = runs(folder)
    os.kill(process, signal.SIGKILL)
    exit_code(process)
    assert forked(*words, folder=folder) == 0, output(folder)
    assert before.items() <= runs(folder).items()
    continued = content(folder)
    assert forked(*words, "--out", "other", folder=folder) == 0
    whole = json.loads((folder / "other/benchmark.json").read_text())
    for axis in ("steps", "gradients"):
        assert continued["times"][axis] == whole["times"][axis]


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue(folder):
    words = ("benchmark", "tiny", "--config-dir", "mine", "--launcher", "basic")
    process = start_fork(*words, folder=folder)
    while not runs(folder):
        time.sleep(0.05)
    os.kill(process, signal.SIGINT)
    assert exit_code(process) == 130
    assert f"the same command continues it: trainopt {' '.join(words)}" in output(folder)


@pytest.mark.slow
def test_self_tuning_and_targets(folder):
    assert benchmark(folder, "--ruleset", "self", "--studies", "2", "optimizer=sgd") == 0, output(folder)
    assert len(runs(folder)) == 4
    result = content(folder)
    assert (result["ruleset"], result["trials"]) == ("self", 1)
    output(folder)
    assert benchmark(folder, "--ruleset", "self", "--studies", "2", "--targets", "optimizer=sgd") == 0
    assert "mlp: target: " in output(folder)


@pytest.mark.slow
def test_a_network_that_a_submission_cannot_train_is_a_miss_and_no_error(folder):
    words = ("--ruleset", "self", "--studies", "1")
    assert benchmark(folder, *words, "optimizer=sgd,muon") == 0, output(folder)
    line = "linear, Muon: optimizer.name=muon: Muon is for hidden weights"
    assert f"refused, which counts as a miss: {line}" in output(folder)
    assert content(folder)["times"]["steps"]["muon"]["linear"] == [None]
    path = folder / "mine/suite/tiny.yaml"
    path.write_text(
        path.read_text().replace("    overrides: [duration=4", "    overrides: ['model.hidden=[]', duration=4")
    )
    assert benchmark(folder, *words, "--out", "other", "optimizer=muon") == 1
    assert "no workload takes Muon" in output(folder)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "benchmark: which suite? there are embedded"),
        (("optimizer=sgd",), "benchmark: which suite? there are embedded"),
        (("embeded",), "benchmark: embeded: no such suite; did you mean embedded?"),
        (("tiny", "--trials", "0"), "benchmark: --trials 0: must be an integer >= 1"),
        (("tiny", "--ruleset", "self", "--trials", "3"), "benchmark: --trials: with --ruleset self a study is one run"),
        (("tiny", "--ruleset", "selve"), "benchmark: --ruleset: invalid choice: 'selve'"),
    ],
)
def test_what_is_wrong_is_said(folder, words, line):
    with pytest.raises(UserError) as error:
        make_plan(parser().parse_intermixed_args([*words, "--config-dir", str(folder / "mine")]))
    assert str(error.value).startswith(line)


def test_a_suite_without_targets_can_only_find_them(folder):
    path = folder / "mine/suite/tiny.yaml"
    path.write_text(path.read_text().replace("target: 2.0", "target: null"))
    words = ["tiny", "--config-dir", str(folder / "mine")]
    with pytest.raises(UserError, match="tiny: mlp has no target yet; --targets finds one"):
        make_plan(parser().parse_intermixed_args(words))
    assert len(make_plan(parser().parse_intermixed_args([*words, "--targets"])).searches) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("optimizer=adamww",), "tiny: mlp, adamww: optimizer=adamww: no such option; did you mean adamw?"),
        (
            ("optimizer=sgd optimizer.nonsense=1",),
            "tiny: mlp, sgd optimizer.nonsense=1: optimizer.nonsense: unknown key",
        ),
        (("data.root=nowhere",), "benchmark: data.root=nowhere: is part of a workload"),
        (("--launcher", "fast"), "hydra/launcher=fast: no such option"),
    ],
)
def test_what_is_wrong_is_said_before_a_run(folder, words, line):
    assert benchmark(folder, "--dry-run", *words) == 2
    last = output(folder).splitlines()[-1]
    assert last.startswith(f"trainopt: {line}"), last
    assert not runs(folder)


@pytest.mark.slow
def test_missing_data_is_said_before_a_run(folder, monkeypatch):
    path = folder / "mine/suite/tiny.yaml"
    path.write_text(path.read_text().replace("data=synthetic, data.train_size=64, data.test_size=16", "data=cifar10"))
    monkeypatch.setenv("TRAINOPT_DATA", str(folder / "none"))
    assert benchmark(folder) == 2
    last = output(folder).splitlines()[-1]
    assert last.startswith("trainopt: tiny: mlp, sgd: ")
    assert "`trainopt data=cifar10 data.download=true debug=quick` fetches them" in last


@pytest.mark.slow
def test_another_default_outdates_what_is_done(folder):
    (folder / "mine/optimizer").mkdir()
    option = folder / "mine/optimizer/mine.yaml"
    option.write_text("_target_: torch.optim.SGD\nlr: 0.1\nmomentum: 0.0\n")
    words = ("--ruleset", "self", "--studies", "1", "optimizer=mine")
    assert benchmark(folder, *words) == 0, output(folder)
    made = runs(folder)
    option.write_text(option.read_text().replace("momentum: 0.0", "momentum: 0.9"))
    output(folder)
    assert benchmark(folder, *words) == 2
    assert "mlp, mine: " in (text := output(folder))
    assert "holds a run with another configuration, as a default has changed since" in text
    assert runs(folder) == made


def test_names_and_the_style_of_the_figure_are_checked_before_anything_is_run(folder):
    def plan(*words):
        return make_plan(parser().parse_intermixed_args(["tiny", "--config-dir", str(folder / "mine"), *words]))

    assert [s.label for s in plan("--rename", "optimizer=sgd:mine").submissions] == ["mine", "AdamW"]
    with pytest.raises(UserError, match="--rename optimizer=adam:A: no method has optimizer=adam"):
        plan("--rename", "optimizer=adam:A")
    with pytest.raises(UserError, match="--width 3: must be a length with its unit"):
        plan("--width", "3")
