"""Sweeps on a real SLURM of one node: submitted, watched, disturbed in every way, and submitted again."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.slurm import Slurm, run, skip_without_slurm, wait_until

pytestmark = pytest.mark.slow

# Writes the number of every step that is made; `kind` says what becomes of the run.
COUNTED = """
import time
import torch

class SGD(torch.optim.SGD):
    def __init__(self, params, lr=0.01, kind=0, pause=0.25):
        super().__init__(params, lr=1e30 if kind == 5 else lr)
        self.kind, self.pause = kind, pause
        self.param_groups[0]["count"] = 0

    def step(self, closure=None):
        time.sleep(5 * self.pause if self.kind == 7 else self.pause)
        self.param_groups[0]["count"] += 1
        count = self.param_groups[0]["count"]
        if self.kind == 11 and count == 4:
            raise RuntimeError("the cause of test_slurm.py")
        result = super().step(closure)
        with open("steps.txt", "a") as file:
            file.write(f"{self.kind} {count}\\n")
        return result
"""
STEPS = 40
SWEEP = (
    *("-m", "model=mlp", "model.hidden=[8]", "optimizer._target_=counted.SGD", f"duration={STEPS}steps"),
    *("checkpoint_every=1steps", "evaluate_every=1e9epochs", "logger=none", "+optimizer.pause=0.25"),
)
SETTINGS = ("cluster.gpus=0", "cluster.time=1", "cluster.grace=10")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    skip_without_slurm()
    folder = tmp_path_factory.mktemp("slurm")
    for above in (folder, *folder.parents):  # munge's user has to reach its key
        if above.stat().st_uid == os.geteuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o055)
    with Slurm(folder) as daemons:
        yield daemons


def trainopt(folder: Path, *arguments: str) -> str:
    """Returns what a command prints that is typed in a folder."""
    command = [str(Path(sys.executable).with_name("trainopt")), *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the job table by the kinds of the jobs."""
    (sweep,) = (folder / "outputs/sweeps").iterdir()
    jobs = json.loads(trainopt(folder, "status", str(sweep), "--json"))
    return {text.partition("=")[2]: job for job in jobs for text in job["overrides"] if "optimizer.kind" in text}


def states(folder: Path) -> Counter[str]:
    """Returns the number of jobs in each state."""
    return Counter(str(job["state"]) for job in table(folder).values())


def kind_of(job: dict[str, Any]) -> str:
    """Returns the kind of a job."""
    return next(kind for kind in map(str, range(12)) if f"+optimizer.kind={kind}" in job["overrides"])


def repeated(folder: Path) -> dict[str, int]:
    """Returns how many steps were made more than once, by kind."""
    number = Counter((folder / "steps.txt").read_text().splitlines())
    return dict(Counter(line.split()[0] for line, times in number.items() if times > 1))


def test_disturbed_sweep_is_completed(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP, "+optimizer.kind=0,1,2,3,4,5,6,7,8,9,10,11"]
    assert "submitted 12 runs in 12 tasks" in trainopt(tmp_path, "submit", *sweep, *SETTINGS)
    wait_until(lambda: states(tmp_path)["running"] >= 4, 40)
    assert states(tmp_path)["queued"] >= 6

    run("sbatch", "--partition=high", "--ntasks=1", "--output=/dev/null", "--wrap=sleep 3")
    wait_until(lambda: {"preempted", "requeued"} & set(states(tmp_path)), 30)
    again = trainopt(tmp_path, "submit", *sweep, *SETTINGS)
    assert "nothing else is left" in again
    assert "submitted" not in again

    wait_until(lambda: table(tmp_path)["7"]["state"] == "running", 90)
    requeued = next(j for k, j in table(tmp_path).items() if j["state"] == "running" and k not in ("5", "7", "11"))
    run("scontrol", "requeue", str(requeued["task"]))
    wait_until(lambda: table(tmp_path)[kind_of(requeued)]["state"] in ("requeued", "queued"), 30)

    alive = [kind for kind, job in table(tmp_path).items() if job["state"] == "running"]
    slurm.kill_node()
    time.sleep(1)
    slurm.start_node()
    wait_until(lambda: not {"running", "queued", "preempted", "requeued"} & set(states(tmp_path)), 280)

    ends = {kind: job["state"] for kind, job in table(tmp_path).items()}
    expected = {**dict.fromkeys(map(str, range(12)), "done"), "11": "failed", "5": "diverged"}
    assert ends == expected
    twice = repeated(tmp_path)
    assert set(twice) <= set(alive) - {"5"}, "only a process that is killed can repeat a step"
    assert all(number <= 2 for number in twice.values())
    made = Counter(line.split()[0] for line in set((tmp_path / "steps.txt").read_text().splitlines()))
    assert all(made[kind] == STEPS for kind, state in expected.items() if state == "done")

    text = (tmp_path / "counted.py").read_text()
    (tmp_path / "counted.py").write_text(text.replace("self.kind == 11", "False"))
    again = trainopt(tmp_path, "submit", *sweep, *SETTINGS)
    assert "10 done, 1 diverged; 1 left" in again
    assert "submitted 1 runs in 1 tasks" in again
    wait_until(lambda: table(tmp_path)["11"]["state"] == "done", 60)
