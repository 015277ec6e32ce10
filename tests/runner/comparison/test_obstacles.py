"""What of synthetic runs is named, left out, or a reason not to compare them."""

import json
import shutil
from pathlib import Path

import pytest

from helpers.comparisons import ADAM, methods
from helpers.fixtures import made_up_run
from trainopt.runner import load_run
from trainopt.runner.comparison.read import read_comparison
from trainopt.runner.comparison.table import comparison_table, show_comparison
from trainopt.runner.records.frames import RunError
from trainopt.runner.system.display import wide_console
from trainopt.runner.system.files import shown


def test_other_versions_of_torch_and_numbers_of_threads_are_named(trainopt, two):
    assert "Runs differ" not in trainopt("compare", str(two)).out
    for seed, (version, threads) in enumerate([("2.15.0", 4), ("2.14.1", 16), ("2.14.1", None)]):
        environment = {"versions": {"torch": version}, "threads": threads}
        made_up_run(two / f"x{seed}", seed, 80.0 + seed**2, choices={"optimizer": "x"}, environment=environment)
    differ = "Runs differ in version of torch (2.14.1, 2.15.0) and number of threads (4, 16): "
    assert differ in trainopt("compare", str(two), "--force").out


def test_what_cannot_be_used_is_named_and_the_rest_compared(two):
    (two / "sgd0/summary.json").unlink()
    text = (two / "sgd1/metrics.jsonl").read_text()
    (two / "sgd1/metrics.jsonl").write_text(text[:-20])
    (two / "sgd2/summary.json").write_text('{"status": "finished"}')
    made_up_run(two / "more", 9, status="running")
    (two / "adam0/run.yaml").write_text("a: [")
    shutil.copytree(two / "adam1", two / "twin")
    comparison, found = methods(two)
    problems = {Path(folder).name: reason for folder, reason in comparison.runs.problems}
    assert len(problems) == 6
    for name, reason in {
        "sgd0": "summary.json is missing or damaged",
        "sgd1": "metrics.jsonl ends with an incomplete record",
        "sgd2": "summary.json lacks fingerprint",
        "more": "is still running, or was killed",
        "adam0": "run.yaml is missing or damaged",
        "twin": f"is the same run as {shown(two / 'adam1')}",
    }.items():
        assert problems[name].startswith(reason)
    assert {name: len(m.runs) for name, m in found.items()} == {"optimizer=adam": 3, "optimizer=sgd": 1}
    with pytest.raises(RunError, match="incomplete record"):
        load_run(two / "sgd1")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"choices": {"data": "mnist", "optimizer": "x"}}, "different data: data"),
        ({"choices": {"optimizer": "x"}, "config": {"duration": "9epochs"}}, "different duration: "),
        ({"choices": {"optimizer": "x"}, "summary": {"test_images": 40}}, "different data: test_images"),
        ({"choices": {"optimizer": "x"}, "summary": {"best_on": "validation"}}, "best metrics are those on"),
        ({"choices": {"optimizer": "x"}, "environment": {"commit": "def"}}, "different commits of the program"),
        ({"choices": {"optimizer": "x"}, "environment": {"dirty": True}}, "uncommitted changes of the program in some"),
    ],
)
def test_what_should_not_be_compared_is_an_obstacle(two, options, reason):
    made_up_run(two / "other", 0, **options)
    (obstacle,) = methods(two)[0].obstacles
    assert obstacle.startswith(reason)


def test_data_that_differs_though_its_keys_do_not_is_an_obstacle(two):
    for seed, value in enumerate("ab"):
        made_up_run(two / f"x{value}", seed, environment={"data_checksum": {"value": value, "of": "the values"}})
    (obstacle,) = methods(two)[0].obstacles
    assert obstacle == "different data, though its keys are the same: the values"


def test_a_run_that_went_on_with_other_data_is_an_obstacle(two):
    """As versions did that compared no checksums."""
    checksums = [{"data_checksum": {"value": value, "of": "the values"}} for value in "ab"]
    made_up_run(two / "mixed", 8, environment={**checksums[1], "earlier": [{}, checksums[0]]})
    (obstacle,) = methods(two)[0].obstacles
    assert obstacle == "different data, though its keys are the same: the values"


@pytest.mark.parametrize(
    ("edited", "values"),
    [
        ({"final": {"top1": 99.5, "fog": {"top1": 1.0}}}, f"final test top1 99.5 and {ADAM[1]:.4g}"),
        ({"selected": {"step": 40, "top1": 99.5}}, f"selected test top1 99.5 and {ADAM[1]:.4g}"),
        ({"best": {"metric": "top1", "value": 99.5, "step": 40}}, f"best top1 99.5 and {ADAM[1]:.4g}"),
        ({"best": {"metric": "top1", "value": ADAM[1], "step": 35}}, "best step 35 and 40"),
        ({"best_top1": {"value": 99.5}}, f"best_top1 top1 99.5 and {ADAM[1]:.4g}"),
        ({"lowest_loss": {"value": 0.001}}, "lowest_loss loss 0.001 and 0.3"),
        ({"train_seconds": 7.9}, "train_seconds 7.9 and 8"),
        ({"train_seconds": 9.5}, "train_seconds 9.5 and 8"),
        ({"hvps": 4}, "hvps 4 and 0"),
    ],
)
def test_a_summary_that_its_records_do_not_have_is_an_obstacle(two, edited, values):
    summary = json.loads((two / "adam1/summary.json").read_text())
    summary |= {"best": {"metric": "top1", "value": ADAM[1], "step": 40}}
    summary |= {"selected": {"step": 40, "top1": ADAM[1]}}
    (two / "adam1/summary.json").write_text(json.dumps(summary))
    assert read_comparison([two]).obstacles == []
    for key, entry in edited.items():
        summary[key] = {**summary[key], **entry} if isinstance(entry, dict) else entry
    (two / "adam1/summary.json").write_text(json.dumps(summary))
    (obstacle,) = read_comparison([two]).obstacles
    assert obstacle == f"{shown(two / 'adam1')} has other values in summary.json than in metrics.jsonl: {values}"


@pytest.mark.parametrize("status", ["finished", "diverged"])
def test_a_configuration_that_was_changed_after_the_run_is_an_obstacle(two, status):
    made_up_run(two / "other", 9, status=status, config={"data.root": "here"})
    path = two / "other/run.yaml"
    text = path.read_text()
    path.write_text(text.replace("root: here", "root: there"))  # has no effect
    assert read_comparison([two]).obstacles == []
    path.write_text(text.replace("lr: 0.1", "lr: 0.2"))
    (obstacle,) = read_comparison([two]).obstacles
    changed = "has another configuration in run.yaml than it ran with, by the fingerprint in summary.json"
    changed += " (optimizer.lr=0.2 instead of 0.1)"
    assert obstacle == f"{shown(two / 'other')} {changed}"
    (two / "search").mkdir()
    (two / "other").rename(two / "search/trial")
    obstacles = read_comparison([two / "sgd0"], [two / "search"]).obstacles
    assert f"{shown(two / 'search/trial')} {changed}" in obstacles


def test_obstacles_are_refused_unless_forced(trainopt, two):
    made_up_run(two / "other", 0, choices={"data": "mnist", "optimizer": "x"})
    made_up_run(two / "more", 9, status="running")
    tuning = ("--tuning", str(two / "sgd0"))
    result = trainopt("compare", str(two), *tuning)
    assert result.code == 2
    assert "different data: data; unequal tuning effort: " in result.err
    assert "--force compares nevertheless" in result.err
    forced = trainopt("compare", str(two), *tuning, "--force")
    assert forced.code == 0
    assert "warning: different data: data" in forced.out
    assert "left out: runs/more: is still running, or was killed" in forced.out
    warning = "Warning: these runs should not be compared as they are: different data: data; unequal tuning effort: "
    assert Path("outputs/comparison/table.md").read_text().startswith(warning)
    assert rf"\caption{{{warning}" in Path("outputs/comparison/table.tex").read_text()


def test_unequal_tuning_effort_is_shown_and_an_obstacle(two, tmp_path, capsys):
    for trial in range(5):
        made_up_run(tmp_path / "tuning" / f"sgd{trial}", config={"optimizer.lr": 10.0**-trial}, hvps=1)
    made_up_run(tmp_path / "tuning" / "adam", choices={"optimizer": "adam"}, config={"optimizer.lr": 0.01})
    comparison = read_comparison([two], [tmp_path / "tuning"])
    # four epochs of 10 gradients, and of one product that counts as two
    efforts = "optimizer=adam 1 trial (40 gradients), optimizer=sgd 5 trials (240 gradients)"
    assert comparison.obstacles == [f"unequal tuning effort: {efforts}"]
    header, rows = comparison_table(comparison, [], [])
    assert [row[header.index("tuning gradients")] for row in rows] == ["40", "240"]
    show_comparison(comparison, "epochs", wide_console())
    assert "240" in capsys.readouterr().out
    made_up_run(tmp_path / "tuning/sgd0-1", 1, config={"optimizer.lr": 1.0}, hvps=1)  # of the first trial, too
    comparison = read_comparison([two], [tmp_path / "tuning"])
    assert [(len(m.trials), m.trial_count) for m in comparison.methods] == [(1, 1), (6, 5)]
    assert [m.trial_gradients for m in comparison.methods] == [40, 288]
