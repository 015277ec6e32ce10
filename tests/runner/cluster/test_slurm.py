"""Sweeps on a real SLURM of one node: submitted, watched, disturbed in every way, and submitted again."""

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from helpers.clusters import COUNTED, printed_table, repeated, states, sweep_of, table, trainopt, type_commands
from helpers.slurm import Slurm, run, skip_without_slurm, wait_until
from trainopt.runner.cluster.queue import read_table_with_queue
from trainopt.runner.records.job_table import IN_QUEUE

pytestmark = pytest.mark.slow

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
    daemons = Slurm(folder)
    try:
        daemons.__enter__()
    except (OSError, subprocess.SubprocessError, AssertionError) as error:
        daemons.__exit__()
        pytest.skip(f"SLURM's daemons do not start here: {error}")
    yield daemons
    daemons.__exit__()


def kind_of(job: dict[str, Any]) -> str:
    """Returns the kind of a job."""
    return next(kind for kind in map(str, range(12)) if f"+optimizer.kind={kind}" in job["overrides"])


def test_disturbed_sweep_is_completed(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP, "+optimizer.kind=0,1,2,3,4,5,6,7,8,9,10,11"]
    sweep += [*SETTINGS, "cluster.array_parallelism=2"]  # more at once may not begin before their time limit
    assert "submitted 12 runs in 12 tasks" in trainopt(tmp_path, "submit", *sweep)
    wait_until(lambda: states(tmp_path)["running"] >= 2)
    assert sum(states(tmp_path)[state] for state in IN_QUEUE) >= 6

    run("sbatch", "--partition=high", "--ntasks=3", "--output=/dev/null", "--wrap=sleep 3")
    wait_until(lambda: {"preempted", "requeued"} & set(states(tmp_path)))
    again = trainopt(tmp_path, "submit", *sweep)
    assert "nothing else is left" in again
    assert "submitted" not in again

    wait_until(lambda: table(tmp_path)["7"]["state"] == "running")

    def others_running() -> list[dict[str, Any]]:
        jobs = table(tmp_path).items()
        return [job for kind, job in jobs if job["state"] == "running" and kind not in ("5", "7", "11")]

    running = wait_until(others_running)
    requeued = min(running, key=lambda job: job["step"] or 0)  # no run that ends before it is queued again
    run("scontrol", "requeue", str(requeued["task"]))
    wait_until(lambda: table(tmp_path)[kind_of(requeued)]["state"] in IN_QUEUE)

    alive = [kind for kind, job in table(tmp_path).items() if job["state"] == "running"]
    slurm.kill_node()
    time.sleep(1)
    slurm.start_node()
    wait_until(lambda: not {"running", *IN_QUEUE} & set(states(tmp_path)))
    if states(tmp_path)["interrupted"]:  # SLURM misses a task that began just before, and ends it at its time limit
        trainopt(tmp_path, "submit", *sweep)  # the one that fails as well, and it fails again
        wait_until(lambda: not {"running", *IN_QUEUE} & set(states(tmp_path)))

    ends = {kind: job["state"] for kind, job in table(tmp_path).items()}
    expected = {**dict.fromkeys(map(str, range(12)), "done"), "11": "failed", "5": "diverged"}
    assert ends == expected
    assert printed_table(sweep_of(tmp_path)) == list(table(tmp_path).values())
    twice = repeated(tmp_path)
    assert set(twice) <= set(alive) - {"5"}, "only a process that is killed can repeat a step"
    assert all(number <= 2 for number in twice.values())
    made = Counter(line.split()[0] for line in set((tmp_path / "steps.txt").read_text().splitlines()))
    assert all(made[kind] == STEPS for kind, state in expected.items() if state == "done")

    text = (tmp_path / "counted.py").read_text()
    (tmp_path / "counted.py").write_text(text.replace("self.kind == 11", "False"))
    again = trainopt(tmp_path, "submit", *sweep, code=1)
    assert "11 outdated; 1 left" in again  # the edited code is not that of the others
    assert "submitted 1 run in 1 task" in again
    wait_until(lambda: table(tmp_path)["11"]["state"] == "done")


def test_cancelled_tasks_leave_checkpoints(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP[:-1], "+optimizer.pause=0.5", "+optimizer.kind=0,1", "cluster.gpus=0", "cluster.runs_per_job=2"]
    assert "submitted 2 runs in 1 task" in trainopt(tmp_path, "submit", *sweep)
    wait_until(lambda: table(tmp_path)["0"]["step"] not in (None, 0))
    assert table(tmp_path)["1"]["state"] == "queued"  # behind the other one
    ended = trainopt(tmp_path, "cancel", str(sweep_of(tmp_path)))
    assert "cancelled 1 task" in ended
    assert "no task is left" in ended
    assert states(tmp_path) == {"interrupted": 1, "missing": 1}
    assert "submitted 2 runs" in trainopt(tmp_path, "submit", *sweep)
    wait_until(lambda: states(tmp_path) == {"done": 2})
    assert repeated(tmp_path) == {}


def test_each_run_has_two_processes(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    sweep = [*SWEEP, "+optimizer.kind=0,1", "cluster.gpus=0", "cluster.processes=2"]
    assert "submitted 2 runs in 2 tasks" in trainopt(tmp_path, "submit", *sweep)
    wait_until(lambda: table(tmp_path)["0"]["step"])
    run("scontrol", "requeue", str(table(tmp_path)["0"]["task"]))
    wait_until(lambda: states(tmp_path) == {"done": 2})
    made = Counter((tmp_path / "steps.txt").read_text().splitlines())
    assert made == {f"{kind} {step}": 2 for kind in (0, 1) for step in range(1, STEPS + 1)}, "once by each process"
    for kind, job in table(tmp_path).items():
        log = (sweep_of(tmp_path) / job["name"] / "log.txt").read_text()
        assert "2 on CPU, gloo" in log
        assert ("interrupted" in log) == (kind == "0")


def has_workers(sweep: Path) -> bool:
    """Returns whether tasks of a sweep wait or run."""
    return bool(read_table_with_queue(sweep)[1])


def test_a_search_runs_on_the_cluster(slurm: Slurm, tmp_path: Path) -> None:
    search = [
        *("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=6", "model=mlp", "model.hidden=[8]"),
        *("duration=20steps", "optimizer.lr=tag(log,interval(1e-3,1))", "logger=none"),
        *("cluster.gpus=0", "cluster.array_parallelism=2"),
    ]
    assert "submitted 2 workers of the search" in trainopt(tmp_path, "submit", *search)
    assert "2 workers of the search in the queue or running" in trainopt(tmp_path, "submit", *search)
    sweep = sweep_of(tmp_path)
    assert "workers: " in trainopt(tmp_path, "status", str(sweep))
    run("scontrol", "requeue", "".join(run("squeue", "--noheader", "--array", "--format=%i").split()[:1]))
    wait_until(lambda: not has_workers(sweep))
    jobs = printed_table(sweep)
    assert [job["state"] for job in jobs] == ["done"] * 6
    assert len(json.loads((sweep / "search.json").read_text())["trials"]) == 6
    again = trainopt(tmp_path, "submit", *search)
    assert "the search is done; trainopt status" in again
    report = f"result: {sweep.relative_to(tmp_path)}/report.html\n"
    assert report in again
    assert trainopt(tmp_path, "status", str(sweep)).endswith(report)
    assert "submitted" not in again


def test_a_tournament_runs_on_the_cluster(slurm: Slurm, tmp_path: Path) -> None:
    tournament = [
        *("-m", "hydra/sweeper=tournament", "hydra.sweeper.steps=10", "hydra.sweeper.over_last=5"),
        *("hydra.sweeper.exponents=[1,2]", "hydra.sweeper.factors=[]", "hydra.sweeper.max_extensions=0"),
        *("hydra.sweeper.seeds=[1,2]", "model=mlp", "model.hidden=[8]", "optimizer=sgd,adam", "duration=20steps"),
        *("logger=none", "cluster.gpus=0", "cluster.array_parallelism=2"),
    ]
    trainopt(tmp_path, "submit", *tournament)
    sweep = sweep_of(tmp_path)
    wait_until(lambda: not has_workers(sweep))
    jobs = printed_table(sweep)
    assert Counter(job["role"] for job in jobs) == {"trial": 4, "final": 4}
    assert {job["state"] for job in jobs} == {"done"}
    assert (sweep / "comparison" / "report.html").is_file()


def test_tasks_that_cannot_train_say_why(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "counted.py").write_text(COUNTED)
    option = tmp_path / "mine" / "optimizer" / "ours.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: counted.SGD\nlr: 0.1\npause: 0\n")
    base = ("submit", "-m", "model=mlp", "duration=2steps", "logger=none", *SETTINGS)
    assert "task 0: " in trainopt(tmp_path, *base, "seed=1", "--dry-run")
    assert not (tmp_path / "outputs").exists()
    trainopt(tmp_path, *base, "seed=1", "cluster.setup=['module load nocuda']", "hydra.sweep.dir=setup")
    late = ("seed=1", "optimizer=ours", "+cluster.extra.begin=now+40", "--config-dir", "mine")
    trainopt(tmp_path, *base, *late, "hydra.sweep.dir=changed")
    slow = ("optimizer._target_=counted.SGD", "+optimizer.start=50")  # no step before the signal
    trainopt(tmp_path, *base, "seed=1", *slow, "cluster.grace=40", "hydra.sweep.dir=limit")
    option.write_text(option.read_text().replace("0.1", "0.3"))

    def has_failed(name: str) -> bool:
        return bool(printed_table(tmp_path / name)[0]["state"] == "failed")

    for name, reason in {
        "setup": "its task ended before the run began: cluster.setup: module load nocuda: ended the task with code",
        "changed": "mine/optimizer/ours.yaml has changed since the sweep was planned",
        "limit": "its task came to its time limit 3 times without a new step",
    }.items():
        wait_until(partial(has_failed, name))
        (job,) = printed_table(tmp_path / name)
        assert reason in job["error"]
        assert Path(job["log"]).exists()


def test_the_commands_of_the_guide(slurm: Slurm, tmp_path: Path) -> None:
    (tmp_path / "options" / "cluster").mkdir(parents=True)
    (tmp_path / "options" / "cluster" / "mine.yaml").write_text("gpus: 0\n")
    guide, _, rest = (ROOT / "docs" / "cluster.md").read_text().partition("\n## Ray\n")
    assert "--to ray" in rest
    printed = type_commands(guide, tmp_path)
    assert len(printed) > 8
    assert all("done" in text for command, text in printed if "--watch" in command)
    assert "comparison" in {path.name for path in (tmp_path / "outputs").iterdir()}
