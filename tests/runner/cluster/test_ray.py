"""Sweeps on a real Ray of two nodes: submitted, watched, disturbed, cancelled and submitted again."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from helpers.clusters import COUNTED, printed_table, repeated, states, sweep_of, table, trainopt, type_commands
from helpers.ray import RayCluster, skip_without_ray
from helpers.slurm import wait_until
from trainopt.runner.records.job_table import IN_QUEUE

pytestmark = pytest.mark.slow

STEPS = 12
SWEEP = (
    *("-m", "model=mlp", "model.hidden=[8]", "optimizer._target_=counted.SGD", f"duration={STEPS}steps"),
    *("checkpoint_every=1steps", "evaluate_every=1e9epochs", "logger=none", "log_every=1steps", "+optimizer.pause=0.2"),
)
UNDER_WAY = {"running", *IN_QUEUE}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    skip_without_ray()
    daemons = RayCluster()
    try:
        daemons.__enter__()
    except (OSError, subprocess.SubprocessError) as error:
        daemons.__exit__()
        pytest.skip(f"Ray does not start here: {error}")
    yield daemons
    daemons.__exit__()


def worker_of(cluster: RayCluster, task: str) -> int:
    """Returns the number of Ray's process that runs a task."""
    from ray.util.state import get_task

    state = get_task(task, address=cluster.address)
    newest = state[-1] if isinstance(state, list) else state
    return int(newest.worker_pid)


def is_early(job: dict[str, Any]) -> bool:
    """Returns whether a job runs, on a node that is known, and has made half of its steps at most."""
    return job["state"] == "running" and bool(job["node"]) and 0 < (job["step"] or 0) <= STEPS // 2


def test_disturbed_sweep_is_completed(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP, "+optimizer.kind=0,1,2,3,4,5,6,7,8,9,10,11", f"cluster.address={cluster.address}"]
    sweep += ["cluster.gpus=0", "cluster.runs_per_job=6"]
    assert "submitted 12 runs in 2 tasks" in trainopt(tmp_path, "submit", "--to", "ray", *sweep)
    wait_until(lambda: is_early(table(tmp_path)["7"]))  # its steps take longest
    assert states(tmp_path)["queued"] >= 4  # behind it and the run of the other task
    killed = table(tmp_path)["7"]
    os.kill(worker_of(cluster, killed["task"]), signal.SIGKILL)
    again = trainopt(tmp_path, "submit", "--to", "ray", *sweep)
    assert "nothing else is left" in again
    assert "submitted" not in again
    wait_until(lambda: not UNDER_WAY & set(states(tmp_path)))

    ends = {kind: job["state"] for kind, job in table(tmp_path).items()}
    assert ends == {**dict.fromkeys(map(str, range(12)), "done"), "11": "failed", "5": "diverged"}
    assert repeated(tmp_path) == {}, "the run of a killed worker writes a checkpoint"
    log = (sweep_of(tmp_path) / killed["name"] / "log.txt").read_text()
    assert "interrupted" in log
    losses = {job["loss"] for job in table(tmp_path).values() if job["state"] == "done"}
    assert len(losses) == 1, "all are one run, also the one that went on elsewhere"

    text = (tmp_path / "counted.py").read_text()
    (tmp_path / "counted.py").write_text(text.replace("self.kind == 11", "False"))
    again = trainopt(tmp_path, "submit", "--to", "ray", *sweep, code=1)
    assert "11 outdated; 1 left" in again  # the edited code is not that of the others
    assert "submitted 1 run in 1 task" in again
    wait_until(lambda: table(tmp_path)["11"]["state"] == "done")
    assert printed_table(sweep_of(tmp_path)) == list(table(tmp_path).values())


def test_a_lost_node_and_a_cancelled_sweep(cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP[:-1], "+optimizer.pause=3", "+optimizer.kind=0", f"cluster.address={cluster.address}"]
    sweep += ["cluster.gpus=0", "cluster.extra={resources: {second: 1}}"]
    trainopt(tmp_path, "submit", "--to", "ray", *sweep)
    wait_until(lambda: table(tmp_path)["0"]["step"])
    cluster.kill_node()
    wait_until(lambda: {"queued", "requeued"} & set(states(tmp_path)))
    cluster.start_node()
    wait_until(lambda: states(tmp_path) == {"running": 1})
    assert "no task is left" in trainopt(tmp_path, "cancel", str(sweep_of(tmp_path)))
    assert states(tmp_path) == {"interrupted": 1}
    (tmp_path / "counted.py").write_text(COUNTED.replace("self.pause = kind, pause", "self.pause = kind, 0"))
    assert "submitted 1 run in 1 task" in trainopt(tmp_path, "submit", "--to", "ray", *sweep)
    wait_until(lambda: states(tmp_path) == {"done": 1})
    assert repeated(tmp_path) in ({}, {"0": 1}), "the step in progress on the lost node"
    assert len(set((tmp_path / "steps.txt").read_text().splitlines())) == STEPS


def test_the_commands_of_the_guide(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", cluster.address)
    guide = (ROOT / "docs" / "cluster.md").read_text().partition("\n## Ray\n")[2].partition("\n## ")[0]
    printed = type_commands(guide, tmp_path)
    assert len(printed) == 4
    assert all("4 jobs: 4 done" in text for command, text in printed if "--watch" in command)
