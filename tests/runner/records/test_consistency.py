"""Whether the files of a run agree, by runs of several versions."""

from pathlib import Path

import pytest

from helpers.fixtures import made_up_run
from trainopt.runner import load_runs
from trainopt.runner.records.consistency import inconsistency
from trainopt.runner.records.run_folder import fingerprint_of


@pytest.mark.parametrize(("version", "is_checked"), [("0.1.0", True), (None, True), ("99.0.0", False)])
def test_a_configuration_is_compared_by_the_rules_of_the_versions_that_are_known(version, is_checked):
    config = {"duration": "2epoch", "later": 1}
    environment = {} if version is None else {"versions": {"trainopt": version}}
    for usual in (True, False):  # version 0.1.0 took durations as they were typed
        summary = {"status": "finished", "fingerprint": fingerprint_of(config, usual), "steps": 20, "epochs": 2.0}
        assert inconsistency(summary, config, {}, environment, []) == ""
        changed = inconsistency(summary, {**config, "later": 2}, {}, environment, [])
        assert changed.startswith("has another configuration") == is_checked
        assert inconsistency({**summary, "status": "running"}, {**config, "later": 2}, {}, environment, []) == ""


@pytest.mark.parametrize(
    ("typed", "edited", "named"),
    [
        ("optimizer.lr=0.03", {"optimizer.lr": 0.2}, " (optimizer.lr=0.2 instead of 0.03)"),
        ("optimizer.lr=1e-3,0.03", {"optimizer.lr": 0.2}, " (optimizer.lr=0.2 instead of 0.03)"),
        ("optimizer.lr=0.03", {"seed": 1}, " (seed=1 instead of 0)"),  # the default of config.yaml
        ("optimizer.lr=0.03", {"optimizer.momentum": 0.5}, " (optimizer.momentum=0.5 instead of 0.9)"),  # of sgd.yaml
        ("optimizer.lr=0.03", {"later": None}, ""),  # 7 stands nowhere else
        ("optimizer.lr=0.03", {"optimizer.lr": 0.2, "seed": 1}, ""),
        ("optimizer.lr=[", {"optimizer.lr": 0.2}, ""),
    ],
)
def test_the_key_that_was_changed_is_named_where_its_former_value_is_known(typed, edited, named):
    config = {"seed": 0, "optimizer.lr": 0.03, "optimizer.momentum": 0.9, "later": 7}
    summary = {"status": "finished", "fingerprint": fingerprint_of(config)}
    environment = {"command": ["trainopt", "-m", "optimizer=sgd", typed]}
    line = inconsistency(summary, config | edited, {"optimizer": "sgd"}, environment, [])
    assert line == f"has another configuration in run.yaml than it ran with, by the fingerprint in summary.json{named}"


def test_runs_of_version_0_1_0_agree():
    runs = load_runs(Path(__file__).parent / "version_0_1_0")
    assert len(runs.summaries) == 3
    assert runs.inconsistencies == {}


SGD = {"optimizer._target_": "torch.optim.SGD"}


@pytest.mark.parametrize(
    ("config", "option", "environment", "is_wrong"),
    [
        (SGD, "adam", {"code": []}, True),
        (SGD, "sgd", {"code": []}, False),
        (SGD, "adam", {}, False),  # of version 0.1.0, with optimizer._target_=torch.optim.SGD
        (SGD, "torch.optim.SGD", {"code": []}, False),
        (SGD, "mine", {"code": []}, False),
        ({"optimizer._target_": "mine.Adam"}, "adam", {"code": []}, False),  # ours came after their option
    ],
)
def test_a_choice_is_the_option_with_the_class_of_the_run(config, option, environment, is_wrong):
    summary = {"status": "finished", "fingerprint": fingerprint_of(config)}
    text = inconsistency(summary, config, {"optimizer": option}, environment, [])
    assert text == ("has another class in run.yaml than that of optimizer=adam" if is_wrong else "")


@pytest.mark.parametrize(
    ("summary", "duration", "says"),
    [
        ({"status": "finished", "steps": 9, "epochs": 0.9}, "10steps", "finished in summary.json, and 9 steps, fewer"),
        ({"status": "finished", "steps": 9, "epochs": 0.9}, "1epochs", "fewer than duration=1epochs"),
        ({"status": "finished", "steps": 1, "epochs": 1 / 3 - 1e-12}, "0.33333333333epochs", ""),
        ({"status": "finished", "steps": 9, "epochs": 0.9}, "10min", ""),
        ({"status": "finished", "steps": 9, "epochs": 0.9, "stopped_early": True}, "1epochs", ""),
        ({"status": "finished", "steps": 9, "epochs": 0.9, "range_test": {"base_lr": 0.1}}, "1epochs", ""),
        ({"status": "finished", "steps": 9, "epochs": None}, "10steps", ""),
        ({"status": "running", "steps": 9, "epochs": 0.9}, "10steps", ""),
        ({"status": "diverged", "steps": 9, "epochs": 0.9}, "10steps", "diverged in summary.json, and no place at whi"),
        ({"status": "diverged", "steps": 9, "epochs": 0.9, "diverged_at": {"step": 9}}, "10steps", ""),
        (
            {"status": "finished", "steps": 10, "epochs": 1, "diverged_at": {"step": 9}},
            "10steps",
            "and a place at which",
        ),
    ],
)
def test_the_status_of_a_run_is_how_it_ended(summary, duration, says):
    config = {"duration": duration}
    text = inconsistency({**summary, "fingerprint": fingerprint_of(config)}, config, {}, {}, [])
    assert (says in text) if says else text == ""


def test_both_are_said(tmp_path):
    folder = made_up_run(tmp_path / "run", summary={"best_top1": {"value": 91.0}})
    path = folder / "run.yaml"
    path.write_text(path.read_text().replace("lr: 0.1", "lr: 0.2"))
    (line,) = load_runs(folder).inconsistencies.values()
    assert ", by the fingerprint in summary.json (optimizer.lr=0.2 instead of 0.1) and has other values in " in line
    assert line.endswith("summary.json than in metrics.jsonl: best_top1 top1 91 and 90")
