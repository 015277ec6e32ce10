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
        summary = {"status": "finished", "fingerprint": fingerprint_of(config, usual)}
        assert inconsistency(summary, config, environment, []) == ""
        changed = inconsistency(summary, {**config, "later": 2}, environment, [])
        assert changed.startswith("has another configuration") == is_checked
        assert inconsistency({**summary, "status": "running"}, {**config, "later": 2}, environment, []) == ""


def test_runs_of_version_0_1_0_agree():
    runs = load_runs(Path(__file__).parent / "version_0_1_0")
    assert len(runs.summaries) == 3
    assert runs.inconsistencies == {}


def test_both_are_said(tmp_path):
    folder = made_up_run(tmp_path / "run", summary={"best_top1": {"value": 91.0}})
    path = folder / "run.yaml"
    path.write_text(path.read_text().replace("lr: 0.1", "lr: 0.2"))
    (line,) = load_runs(folder).inconsistencies.values()
    values = "has other values in summary.json than in metrics.jsonl: best_top1 top1 91 and 90"
    assert line.endswith(f", by the fingerprint in summary.json and {values}")
