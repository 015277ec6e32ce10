"""The plan of a sweep, which several processes may change at a time."""

import json
import os
from pathlib import Path

from omegaconf import OmegaConf

from helpers.cli import prepared
from helpers.fixtures import made_up_run
from trainopt.runner.records.job_table import read_job_table, read_jobs, write_plan
from trainopt.runner.records.run_folder import fingerprint

PROCESSES, TIMES = 3, 15


def test_processes_that_add_jobs_to_a_plan_lose_none(tmp_path):
    write_plan(tmp_path, ["seed=0,1"], [], workers=1)
    children = []
    for process in range(PROCESSES):
        child = os.fork()
        if not child:
            try:
                for number in range(TIMES):
                    write_plan(tmp_path, ["seed=0,1"], [{"folder": f"{process}-{number}", "overrides": []}], workers=1)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert {job["folder"] for job in read_jobs(tmp_path)} == {
        f"{p}-{t}" for p in range(PROCESSES) for t in range(TIMES)
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def state_of(sweep, config, in_run, in_plan):
    """Returns the state of the one job of a sweep, by the fingerprints in its folder and in the plan."""
    (sweep / "a").mkdir(parents=True, exist_ok=True)
    text = OmegaConf.to_yaml(config) + OmegaConf.to_yaml({"choices": {}, "fingerprint": in_run})
    (sweep / "a/run.yaml").write_text(text)
    (sweep / "a/summary.json").write_text('{"status": "finished"}')
    (sweep / "sweep.json").write_text(json.dumps({"jobs": [{"folder": "a", "overrides": [], "fingerprint": in_plan}]}))
    (job,) = read_job_table(sweep)
    return job.state


def test_a_run_and_a_plan_that_write_the_same_duration_differently_are_of_the_same_job(tmp_path):
    typed = OmegaConf.merge(prepared("model=mlp")[0], {"duration": "2epoch"})
    former, present = fingerprint(typed, usual=False), fingerprint(typed)
    assert former != present
    assert state_of(tmp_path, typed, former, present) == "done"  # the sweep was typed again
    assert state_of(tmp_path, typed, present, former) == "done"  # the run was resumed
    other = fingerprint(OmegaConf.merge(typed, {"duration": "3epoch"}), usual=False)
    assert state_of(tmp_path, typed, former, other) == "outdated"
    (tmp_path / "a/run.yaml").write_text(f"fingerprint: {former}\nnonsense")
    assert read_job_table(tmp_path)[0].state == "outdated"


def test_a_configuration_that_was_edited_after_the_run_is_another(tmp_path):
    config = prepared("model=mlp")[0]
    mark = fingerprint(config)
    assert state_of(tmp_path, config, mark, mark) == "done"
    path = tmp_path / "a/run.yaml"
    written = (tmp_path / "a/summary.json").stat().st_mtime
    os.utime(path, (written + 1, written + 1))  # as a copy may be
    assert read_job_table(tmp_path)[0].state == "done"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    os.utime(path, (written + 1, written + 1))
    assert read_job_table(tmp_path)[0].state == "outdated"


def test_a_run_has_the_name_of_its_folder(tmp_path, monkeypatch):
    made_up_run(tmp_path / "run", 0)
    monkeypatch.chdir(tmp_path / "run")
    assert [(job.name, job.state) for job in read_job_table(Path())] == [("run", "done")]
