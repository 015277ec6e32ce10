"""A sweep loses nothing: whatever becomes of its jobs, the same command does what is left, and no more."""

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from helpers.cli import exit_code, start_fork
from helpers.fixtures import image_folders, made_up_run, made_up_sweep
from helpers.runs import same_weights, summary
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.system.files import write_json
from trainopt.runner.system.isolation import run_isolated
from trainopt.runner.system.lock import this_process

# An optimizer of somebody's whose fate depends on `job`; every start and every step goes on record.
THEIRS = """
import os, pathlib, signal, torch

HERE = pathlib.Path(__file__).parent
DIVERGES, RAISES, RAISES_ONCE, IS_KILLED, IS_OUT_OF_TIME = 2, 3, 4, 7, 9

def note(name, what):
    with open(HERE / name, "a") as file:
        file.write(f"{what}\\n")

def first_time(job):
    mark = HERE / f"was-here-{job}"
    new = not mark.exists()
    mark.touch()
    return new

class Fated(torch.optim.SGD):
    def __init__(self, params, lr=0.1, job=0):
        super().__init__(params, lr)
        self.job = job
        self.param_groups[0]["count"] = 0  # is in checkpoints
        note("starts", job)

    def step(self, closure):
        loss = super().step(closure)
        self.param_groups[0]["count"] += 1
        note("steps", self.job)
        if self.param_groups[0]["count"] == 5:
            if self.job == DIVERGES:
                for p in self.param_groups[0]["params"]:
                    p.data.fill_(float("nan"))
            if self.job == RAISES or self.job == RAISES_ONCE and first_time(self.job):
                raise ArithmeticError("no further")
            if self.job == IS_KILLED and first_time(self.job):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.job == IS_OUT_OF_TIME and first_time(self.job):
                os.kill(os.getpid(), signal.SIGTERM)
        return loss
"""
LENGTH = 12
SWEEP = (
    "-m",
    "model=mlp",
    f"duration={LENGTH}steps",
    "checkpoint_every=2steps",
    "logger=none",
    "optimizer._target_=their_sweep.Fated",
    "hydra.sweep.dir=sweep",
)
TWELVE, SIX = tuple(range(12)), (0, 2, 3, 4, 7, 9)
AFTER_THE_FIRST = {2: "diverged", 3: "failed", 4: "failed", 7: "interrupted", 9: "interrupted"}
AFTER_THE_SECOND = {2: "diverged", 3: "failed"}


def states(folder: Path) -> dict[int, str]:
    """The states that are not `done`, by the number of the job."""
    entries = read_job_table(folder)
    numbers = [int(text.rpartition("=")[2]) for e in entries for text in e.overrides if "job=" in text]
    return {n: e.state for n, e in zip(numbers, entries, strict=True) if e.state != "done"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "numbers"),
    [("basic", SIX), ("joblib", TWELVE)],
)
def test_a_sweep_is_finished_by_the_second_time(finished, tmp_path, launcher, numbers):
    (tmp_path / "their_sweep.py").write_text(THEIRS)
    command = (*SWEEP, f"+optimizer.job={','.join(map(str, numbers))}", f"hydra/launcher={launcher}")
    first = finished(*command)
    assert first.code == 1
    count = len(numbers)
    assert f"{count} jobs: {count - 5} done, 1 diverged, 2 interrupted, 2 failed" in first.out
    assert len(read_job_table(tmp_path / "sweep")) == count
    assert states(tmp_path / "sweep") == AFTER_THE_FIRST
    told = finished("status", "sweep")
    assert told.code == 0
    assert f"{count} jobs: {count - 5} done, 1 diverged, 2 interrupted, 2 failed" in told.out
    failed = next(f for f in (tmp_path / "sweep").iterdir() if "job=3," in f.name)
    assert 'raise ArithmeticError("no further")' in (failed / "log.txt").read_text()
    assert summary(failed)["status"] == "failed"
    assert summary(failed)["error"] == "ArithmeticError: no further"

    second = finished(*command)
    assert second.code == 1
    assert f"{count} jobs: {count - 2} done, 1 diverged, 1 failed" in second.out
    assert "once the cause is removed, the same command goes on from step 4" in second.out
    assert "once the causes are removed, the same command runs what failed again: trainopt -m" in second.out
    assert "the same command continues it" not in second.out
    assert states(tmp_path / "sweep") == AFTER_THE_SECOND
    starts = Counter(map(int, (tmp_path / "starts").read_text().split()))
    assert starts == {n: 2 if n in (3, 4, 7, 9) else 1 for n in numbers}
    steps = Counter(map(int, (tmp_path / "steps").read_text().split()))
    # killed or failed in the fifth step, they go on from the fourth; told to stop after the fifth, from there
    expected = dict.fromkeys(numbers, LENGTH) | {2: 5, 3: 6, 4: LENGTH + 1, 7: LENGTH + 1}
    assert steps == expected


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("launcher", "at_a_time"), [("basic", 1), ("joblib", 2)])
def test_a_sweep_that_is_told_to_stop_goes_on_later(finished, tmp_path, launcher, at_a_time, number):
    """Its jobs write their checkpoints first; meanwhile the job table is right, and knows how long they take."""
    jobs = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    run = ("model=mlp", "duration=1000steps", "log_every=1steps", "logger=none", "seed=0,1,2")
    command = ("-m", *jobs, *run, "checkpoint_every=100000steps", "hydra.sweep.dir=sweep")
    pid = start_fork(*command, folder=tmp_path)
    until = time.monotonic() + 120
    while min((e.step or 0 for e in job_table(tmp_path)[:at_a_time]), default=0) < 50:
        assert time.monotonic() < until
        time.sleep(0.05)
    entries = job_table(tmp_path)
    assert [e.state for e in entries] == ["running"] * at_a_time + ["missing"] * (3 - at_a_time)
    assert all(0 < e.share < 1 and 0 < e.seconds_left < 600 for e in entries[:at_a_time])
    os.kill(pid, number)
    assert exit_code(pid) == 128 + number
    out = (tmp_path / "output").read_text()
    assert f"3 jobs: {at_a_time} interrupted, {3 - at_a_time} missing" in out
    assert "the same command continues it: trainopt -m" in out
    for entry in job_table(tmp_path)[:at_a_time]:
        folder = tmp_path / "sweep" / entry.name
        state = torch.load(folder / "checkpoints/last.pt", weights_only=True)
        assert state["progress"]["step"] == summary(folder)["steps"] >= 50
    assert not list((tmp_path / "sweep").glob("stopped-*"))
    assert finished(*command).code == 0
    assert [e.state for e in job_table(tmp_path)] == ["done"] * 3


@pytest.mark.slow
def test_only_the_stop_file_of_a_launcher_itself_stops_it(trainopt, tmp_path, monkeypatch):
    """That of a launcher that was killed stays, also where the next one is the process of the same number."""
    monkeypatch.setattr("trainopt.runner.sweeps.run_job.token_hex", lambda size: "a")
    command = ("-m", "model=mlp", "duration=2steps", "seed=0,1", "logger=none", "hydra.sweep.dir=sweep")
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/stopped-a").touch()
    result = trainopt(*command)
    assert "not started, as the sweep was stopped: mlp-digits-sgd,duration=2steps,seed=1\n" in result.out
    assert [entry.state for entry in job_table(tmp_path)] == ["missing"] * 2
    (tmp_path / f"sweep/stopped-{os.getpid()}").touch()
    assert trainopt(*command).code == 0
    assert [entry.state for entry in job_table(tmp_path)] == ["done"] * 2


def job_table(folder: Path) -> list:
    """The sweep's, or nothing while there is none."""
    return read_job_table(folder / "sweep") if (folder / "sweep/sweep.json").exists() else []


def test_the_same_sweep_again_repeats_nothing(trainopt, tmp_path):
    command = ("-m", "model=mlp", "duration=2steps", "seed=0,1", "logger=none")
    assert trainopt(*command).code == 0
    folder = tmp_path / "outputs/sweeps/duration=2steps,model=mlp,seed=0,1"
    first = {p: p.stat().st_mtime_ns for p in folder.glob("*/*")}
    assert len(list(folder.glob("*/summary.json"))) == 2
    result = trainopt(*command)
    assert result.code == 0
    assert "already finished: mlp-digits-sgd,duration=2steps,seed=1" in result.out
    assert {p: p.stat().st_mtime_ns for p in folder.glob("*/*")} == first


def test_jobs_whose_configuration_changed_are_stale_and_left_alone(trainopt, tmp_path):
    options = tmp_path / "mine" / "optimizer"
    options.mkdir(parents=True)
    option = options / "slow.yaml"
    option.write_text("_target_: torch.optim.SGD\nlr: 0.001\n")
    sweep = ("-m", "model=mlp", "optimizer=slow,sgd", "duration=2steps", "hydra.sweep.dir=sweep")
    command = ("--config-dir", "mine", *sweep)
    assert trainopt(*command).code == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("mlp*/*")}
    option.write_text("_target_: torch.optim.SGD\nlr: 0.002\n")
    result = trainopt(*command)
    assert result.code == 1
    assert "optimizer.lr (0.001 there, 0.002 here)" in result.err
    assert "2 jobs: 1 done, 1 outdated" in result.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep").glob("mlp*/*")} == before
    assert "1 outdated" in trainopt("status", "sweep").out


def test_a_job_that_cannot_be_built_fails_alone_and_may_be_put_right(trainopt, tmp_path):
    command = ("-m", "model=mlp", "duration=2steps", "optimizer.nesterov=true,false", "hydra.sweep.dir=sweep")
    result = trainopt(*command, "optimizer.momentum=0")
    assert result.code == 1
    assert "2 jobs: 1 done, 1 failed" in result.out
    failed = next(e for e in read_job_table(tmp_path / "sweep") if e.state == "failed")
    assert "Nesterov momentum requires a momentum" in failed.error
    folder = tmp_path / "sweep" / failed.name
    assert {p.name for p in folder.iterdir()} == {"summary.json", "log.txt"}
    assert "Traceback" in (folder / "log.txt").read_text()


def test_the_job_table_is_for_programs_and_for_runs_without_a_sweep(trainopt, tmp_path):
    trainopt("model=mlp", "duration=2steps", "run.name=a")
    trainopt("model=mlp", "duration=2steps", "run.name=b")
    (tmp_path / "outputs/b/summary.json").write_bytes(b"")
    found = json.loads(trainopt("status", "outputs", "--json").out)
    assert [(e["name"], e["state"], e["step"]) for e in found] == [("a", "done", 2), ("b", "interrupted", 2)]
    assert found[0]["top1"] == summary(tmp_path / "outputs/a")["final"]["top1"]
    killed = "its process was killed, or its machine stopped; the same command continues it"
    assert [e["error"] for e in found] == [None, killed]
    write_json(tmp_path / "outputs/b/summary.json", {"status": "interrupted"})
    assert "killed" not in trainopt("status", "outputs").out, "it was stopped and wrote its checkpoint"
    assert "nowhere: no such folder" in trainopt("status", "nowhere").err
    (tmp_path / "empty").mkdir()
    nothing = trainopt("status", "empty")
    assert nothing.code == 2
    assert "empty: is no sweep's or run's folder" in nothing.err


def test_several_sweeps_and_runs_have_one_job_table(trainopt, tmp_path):
    for sweep, top1 in (("one", 80.0), ("two", 90.0)):
        made_up_sweep(tmp_path / sweep, [{"seed": 0, "top1": top1}, {"seed": 1, "status": "missing"}])
        (tmp_path / sweep / "report.html").touch()
    made_up_run(tmp_path / "run")
    result = trainopt("status", "one", "two", "run", "one")
    lines = result.out.splitlines()
    assert [line.split()[:2] for line in lines[1:6]] == [
        ["one/seed=0", "done"],
        ["one/seed=1", "missing"],
        ["two/seed=0", "done"],
        ["two/seed=1", "missing"],
        ["run", "done"],
    ]
    assert lines[6:] == ["5 jobs: 3 done, 2 missing", "result: one/report.html", "result: two/report.html"]
    found = json.loads(trainopt("status", "--json", "one", "run").out)
    assert [job["name"] for job in found] == ["one/seed=0", "one/seed=1", "run"]
    alone = json.loads(trainopt("status", "--json", "one").out)
    assert [job["name"] for job in alone] == ["seed=0", "seed=1"]
    assert "nowhere: no such folder" in trainopt("status", "one", "nowhere").err


def test_a_run_that_was_killed_before_its_first_record_is_said(trainopt, tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / "outputs/int").mkdir(parents=True)
    (tmp_path / "outputs/int/lock").write_text(json.dumps({**this_process(), "pid": ended.pid}))
    for folder in ("outputs", "outputs/int"):
        out = trainopt("status", folder).out
        assert "int: was killed before its first record; the same command begins it again\n" in out
        assert "1 job: 1 interrupted" in out


def test_a_sweep_is_no_run_to_resume(trainopt, tmp_path):
    made_up_sweep(tmp_path / "sweep", [{"seed": 0}, {"seed": 1}])
    result = trainopt("resume", "sweep")
    assert result.code == 2
    assert "sweep: is a sweep; type its command again to continue it" in result.err


def test_a_job_in_a_worker_of_joblib_starts_processes():
    """Its start method there takes joblib's own processes only: the job has the system's again."""

    def start_process() -> int:
        process = multiprocessing.Process(target=time.sleep, args=(0,))
        process.start()
        process.join()
        return process.exitcode

    def serve() -> int:
        from joblib.externals.loky.backend.context import set_start_method

        multiprocessing.set_start_method("loky", force=True)
        set_start_method("loky", force=True)
        return run_isolated(start_process, is_worker=True)

    assert run_isolated(serve) == 0


@pytest.mark.slow
def test_folders_of_images_are_read_in_jobs_side_by_side(finished, tmp_path):
    """The weights are those of a run alone: how many processes read makes no difference."""
    image_folders(tmp_path / "d")
    run = ("model=mlp", "data=imagefolder", "data.path=d", "data.size=8", "batching.size=8", "duration=4steps")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    assert finished("-m", *run, *parallel, "seed=0,1", "logger=none").code == 0
    assert finished(*run, "seed=1", "logger=none", "hydra.run.dir=alone").code == 0
    (second,) = (tmp_path / "sweep").glob("*seed=1")
    assert same_weights(second, tmp_path / "alone")


def test_a_process_of_its_own_tells_how_it_ended():
    assert run_isolated(lambda: 3) == 3
    assert run_isolated(lambda: os.kill(os.getpid(), signal.SIGKILL)) == 128 + signal.SIGKILL
    assert run_isolated(lambda: time.sleep(60) if os.kill(os.getpid(), signal.SIGTERM) else 0) == 128 + signal.SIGTERM


def test_a_process_of_its_own_is_told_when_the_other_dies(tmp_path):
    """The one in between is killed; the job, which nobody waits for any more, is asked to stop."""
    mark = tmp_path / "asked"

    def job() -> int:
        signal.signal(signal.SIGTERM, lambda *_: mark.touch())
        (tmp_path / "ready").touch()
        time.sleep(30)
        return 0

    between = os.fork()
    if between == 0:
        os._exit(run_isolated(job))
    until = time.monotonic() + 20
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(between, signal.SIGKILL)
    os.waitpid(between, 0)
    while not mark.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
