"""What becomes of the tasks of a submission, with made-up programs in SLURM's place."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.clusters import use_programs
from trainopt.runner.cluster import steps
from trainopt.runner.cluster.attempts import MOST_FRUITLESS, note_time_limit
from trainopt.runner.cluster.queue import read_table_with_queue
from trainopt.runner.cluster.settings import SlurmSettings, read_settings
from trainopt.runner.cluster.slurm import COLUMNS, batch_script
from trainopt.runner.cluster.steps import run_steps
from trainopt.runner.cluster.submissions import Submission, log_path
from trainopt.runner.commands.cluster import task
from trainopt.runner.commands.cluster.worker import work
from trainopt.runner.records.job_table import read_jobs, write_plan
from trainopt.runner.system.files import write_json
from trainopt.runner.system.hydra_compat import parse_override
from trainopt.runner.system.interrupt import Interrupt


@pytest.fixture
def submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A sweep of two jobs in one task that is no longer in the queue: its folder, and the submission's file."""
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 7", squeue="", scontrol="")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    write_plan(sweep, [], [{"folder": name, "overrides": [name], "fingerprint": "f"} for name in "ab"], 1)
    return sweep, Submission("s.1", ["-m", "seed=1,2"], [["a", "b"]]).write(sweep)


def seen(sweep: Path) -> list[tuple[str, str | None]]:
    """Returns state and error of each job."""
    return [(job.state, job.error) for job in read_table_with_queue(sweep)[0]]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (None, ("missing", None)),
        ("slurmstepd: error: *** JOB 3 ON n4 CANCELLED AT 2026-01-02T03:04:05 ***\nbye\n", ("missing", None)),
        ("trainopt: no module\n\n", ("failed", "its task ended before the run began: no module")),
        ("*** CANCELLED AT 2026-01-02T03:04:05 DUE TO TIME LIMIT ***", ("failed", "DUE TO TIME LIMIT")),
        ("", ("failed", "its log is empty")),
    ],
)
def test_a_task_that_ends_before_its_runs_is_a_failure(
    submitted: tuple[Path, Path], log: str | None, expected: tuple[str, str | None]
) -> None:
    sweep, path = submitted
    if log is not None:
        log_path(path, 0).write_text(log)
    for state, error in seen(sweep):
        assert state == expected[0]
        assert (error is None) if expected[1] is None else expected[1] in str(error)


def test_a_task_that_makes_no_step_is_not_queued_for_ever(submitted: tuple[Path, Path]) -> None:
    sweep, path = submitted
    (sweep / "a").mkdir()
    write_json(sweep / "a" / "summary.json", {"status": "interrupted", "steps": 3})
    assert [note_time_limit(path, 0) for _ in range(MOST_FRUITLESS)] == [True] * MOST_FRUITLESS  # the first made steps
    assert not note_time_limit(path, 0)
    assert {state for state, _ in seen(sweep)} == {"failed"}
    assert all("3 times without a new step" in str(error) for _, error in seen(sweep))


@pytest.mark.parametrize(("line", "code"), [("exit 3", 3), ("module load nocuda", 127), ("false", 1), ("true", 0)])
def test_a_line_of_setup_that_fails_ends_the_task(tmp_path: Path, line: str, code: int) -> None:
    settings = read_settings([f"cluster.setup=['{line}']", "cluster.processes=2"], [], "slurm", SlurmSettings)
    script = batch_script(tmp_path / "a.1.json", Submission("a.1", [], [["one"]]), settings, "module")
    before, _, _ = script.rpartition("exec ")
    env = {"PATH": os.environ["PATH"], "SLURM_CPUS_ON_NODE": "8"}
    ended = subprocess.run(
        ["bash", "-c", f"{before}exec printenv OMP_NUM_THREADS"], env=env, capture_output=True, text=True, check=False
    )
    assert ended.returncode == code
    assert ended.stdout == ("" if code else "4\n"), "cores of a process"
    if code:
        assert ended.stderr.splitlines()[-1] == f"trainopt: cluster.setup: {line}: ended the task with code {code}"


@pytest.mark.parametrize("is_limit", [True, False])
def test_a_time_limit_that_comes_during_setup_is_named(tmp_path: Path, is_limit: bool) -> None:
    settings = read_settings([f"cluster.setup=['touch {tmp_path}/begun','sleep 9']"], [], "slurm", SlurmSettings)
    script = batch_script(tmp_path / "a.1.json", Submission("a.1", [], [["one"]]), settings, "module")
    with subprocess.Popen(["bash", "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "begun").exists():
            time.sleep(0.001)
        time.sleep(0.1)  # until the next line
        if is_limit:
            process.send_signal(signal.SIGUSR2)
        os.killpg(process.pid, signal.SIGTERM)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    line = "trainopt: cluster.setup: sleep 9: the time limit came; give it a longer cluster.time"
    assert printed.strip().endswith(line) if is_limit else "trainopt" not in printed


def test_a_job_refuses_options_that_changed_since_it_was_submitted(
    trainopt: Callable[..., Any], submitted: tuple[Path, Path], tmp_path: Path
) -> None:
    option = tmp_path / "mine" / "optimizer" / "ours.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: torch.optim.SGD\nlr: 0.1\n")
    typed = ["-m", "model=mlp", "optimizer=ours", "duration=2steps", "seed=1", "hydra.sweep.dir=one", "logger=none"]
    again = ["submit", *typed, "--config-dir", "mine", "cluster.gpus=0"]
    assert "submitted 1 run" in trainopt(*again).out
    option.write_text("_target_: torch.optim.SGD\nlr: 0.3\n")
    os.utime(option, (2e9, 2e9))
    (path,) = Path("one/cluster").glob("*.json")
    work(path, 0)
    assert "mine/optimizer/ours.yaml has changed since the sweep was planned" in trainopt("status", "one").out
    option.parent.parent.rename("other")
    assert work(path, 0) == 2
    assert "--config-dir mine: is no folder any more" in trainopt("status", "one").out
    Path("other").rename("mine")
    assert "submitted 1 run" in trainopt(*again).out
    assert work(path, 0) == 0
    assert "1 done" in trainopt("status", "one").out


LINE = {"Name": "", "ArrayJobID": "7", "ArrayTaskID": "0", "State": "PENDING", "Reason": "Resources"}
SWEEP = ("-m", "model=mlp", "duration=2steps", "hydra.sweep.dir=outputs/sweeps/one", "cluster.gpus=0")


def line_of(path: Path, **values: str) -> str:
    """Returns what prints squeue's line of the task of a submission."""
    row = {"NodeList": "", "RestartCnt": "0", "PreemptTime": "N/A"} | LINE | {"Name": path.stem} | values
    return f"echo '{''.join(row[name].ljust(width) for name, width in COLUMNS.items())}'"


def test_a_job_that_failed_in_a_task_with_more_to_do(
    submitted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, path = submitted
    (sweep / "a").mkdir()
    write_json(sweep / "a" / "summary.json", {"status": "failed", "error": "the cause"})
    use_programs(monkeypatch, tmp_path / "bin", squeue=line_of(path, State="RUNNING"))
    assert seen(sweep) == [("failed", "the cause"), ("starting", None)]
    use_programs(monkeypatch, tmp_path / "bin", squeue=line_of(path, RestartCnt="1"))
    assert seen(sweep) == [("requeued", None), ("requeued", None)], "both are tried again"
    use_programs(monkeypatch, tmp_path / "bin", squeue=line_of(path, State="RUNNING"))
    os.utime(path, (2e9, 2e9))
    assert [state for state, _ in seen(sweep)] == ["starting", "queued"], "it failed before it was submitted"


def test_what_waits_keeps_its_settings_which_is_said(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    use_programs(monkeypatch, programs, sbatch="echo 7", squeue="", scontrol="echo MaxArraySize = 3")
    dry = trainopt("submit", "--dry-run", *SWEEP, "seed=1,2,3", "cluster.array_parallelism=1").out
    assert "3 tasks: 2 arrays, one after the other, as SLURM takes 2 tasks in one" in dry
    assert "#SBATCH --array=0-1%1" in dry
    assert "task 1: mlp-digits-sgd,duration=2steps,seed=2" in dry
    assert not Path("outputs").exists()

    for folder in ("lab/cluster", "mine"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "lab/cluster/slurm.yaml").write_text("partition: gpu\n")
    with monkeypatch.context() as environment:
        environment.setenv("TRAINOPT_CONFIG_DIR", "lab")
        dry = trainopt("submit", "--dry-run", *SWEEP, "seed=1", "--config-dir", "mine").out
    assert "#SBATCH --partition=gpu" in dry, "the lab's settings, beside one's own options"

    use_programs(monkeypatch, programs, sbatch=f"cat >> {tmp_path}/scripts; echo 7", scontrol="echo MaxArraySize = 3")
    assert "submitted 2 runs in 2 tasks" in trainopt("submit", *SWEEP, "seed=1,2,3", "cluster.array_parallelism=1").out
    assert (tmp_path / "scripts").read_text().count("#SBATCH --dependency=afterany:7\n") == 1, "of the second array"

    (first,) = (path for path in Path("outputs/sweeps/one/cluster").glob("*.json") if "seed=2" in path.read_text())
    use_programs(monkeypatch, programs, squeue=line_of(first), scontrol="echo MaxArraySize = 9")
    again = trainopt("submit", *SWEEP, "seed=1", "cluster.array_parallelism=1", "cluster.time=30")
    assert "1 queued; nothing else is left" in again.out, "of those that were typed"
    dry = trainopt("submit", "--dry-run", *SWEEP, "seed=1", "cluster.array_parallelism=1")
    assert (dry.code, dry.out) == (0, "1 queued; nothing else is left\nwould submit nothing, so there is no script\n")
    assert "1 in the queue with other settings (cluster.time); to change them, trainopt cancel" in again.out
    use_programs(monkeypatch, programs, sbatch="echo 'Invalid partition' >&2; exit 1")
    refused = trainopt("submit", *SWEEP, "seed=1", "cluster.array_parallelism=1", "cluster.partition=nowhere")
    assert (refused.code, refused.err) == (2, "trainopt: sbatch: Invalid partition\n")
    said = ("sbatch: error: no partition: a", "", "sbatch: error: Batch job submission failed: Invalid partition")
    use_programs(monkeypatch, programs, sbatch=f"printf '{'|'.join(said)}' | tr '|' '\\n' >&2; exit 1")
    refused = trainopt("submit", *SWEEP, "seed=1", "cluster.array_parallelism=1", "cluster.partition=a")
    lines = ("no partition: a", "Batch job submission failed: Invalid partition")
    assert refused.err == "".join(f"trainopt: sbatch: {line}\n" for line in lines)

    use_programs(monkeypatch, programs, squeue="echo 'Unable to contact' >&2; exit 1")
    status = trainopt("status", "outputs/sweeps/one")
    assert status.code == 0
    assert "3 missing" in status.out
    assert status.err == "trainopt: which jobs are in the queue is unknown: squeue: Unable to contact\n"
    assert trainopt("submit", *SWEEP, "seed=1").code == 2, "it may be in the queue"


def test_one_job_is_cancelled_by_its_name_its_folder_or_what_status_shows(
    trainopt: Callable[..., Any], submitted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, both = submitted
    path = Submission("s.2", [], [["c"], ["d"]]).write(sweep)
    write_plan(sweep, [], [{"folder": name, "overrides": [f"a=[{name}]"], "fingerprint": "f"} for name in "cd"], 1)
    asked = f"[ -e {tmp_path}/cancelled ] || {{ {line_of(path, ArrayTaskID='1')}; {line_of(both)}; }}"
    scancel = f'echo "$@" >> {tmp_path}/cancelled'
    use_programs(monkeypatch, tmp_path / "bin", squeue=asked, scancel=scancel)
    assert "is no job of sweep; write the name of its folder" in trainopt("cancel", "sweep", "e").err
    assert "did you mean a=[d]? write the name of its folder" in trainopt("cancel", "sweep", "a=[d").err
    assert "task 7_0 has also b; name these too" in trainopt("cancel", "sweep", "a").err
    assert not (tmp_path / "cancelled").exists()
    (sweep / "d").mkdir()
    for typed in (("sweep", "d"), ("sweep", "sweep/d"), ("sweep/d",), ("sweep", "a=[d]")):
        assert "cancelled 1 task" in trainopt("cancel", *typed).out
        assert (tmp_path / "cancelled").read_text() == "7_1\n"
        (tmp_path / "cancelled").unlink()
    ended = trainopt("cancel", "sweep", "a", "b", "d").out
    assert ended.startswith("cancelled 2 tasks\n"), "both only waited, so no run has a checkpoint to write"
    (tmp_path / "cancelled").unlink()
    asked = f"[ -e {tmp_path}/cancelled ] || {line_of(both, State='RUNNING')}"
    use_programs(monkeypatch, tmp_path / "bin", squeue=asked)
    assert "cancelled 1 task; waiting for the checkpoints" in trainopt("cancel", "sweep").out


def test_the_queue_is_asked_for_all_sweeps_below_a_folder(
    trainopt: Callable[..., Any], submitted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = submitted
    write_plan(tmp_path / "ended", [], [{"folder": "c", "overrides": [], "fingerprint": None}], 1)
    Submission("e.1", [], [["c"]]).write(tmp_path / "ended")
    for folder in ("ended/c", "alone"):
        (tmp_path / folder).mkdir()
        write_json(tmp_path / folder / "summary.json", {"status": "finished"})
    use_programs(monkeypatch, tmp_path / "bin", squeue=f'echo "$@" >> {tmp_path}/asked; {line_of(path)}')
    jobs = json.loads(trainopt("status", ".", "--json").out)
    states = {job["name"]: (job["state"], job["task"]) for job in jobs}
    waits = ("queued", "7_0")
    assert states == {"ended/c": ("done", None), "sweep/a": waits, "sweep/b": waits, "alone": ("done", None)}
    assert "e.1" not in (tmp_path / "asked").read_text(), "all of its jobs have ended"
    use_programs(monkeypatch, tmp_path / "bin", squeue="echo 'Unable to contact' >&2; exit 1")
    assert (
        trainopt("status", ".").err == "trainopt: which jobs are in the queue is unknown: squeue: Unable to contact\n"
    )


@pytest.mark.slow
def test_outdated_jobs_are_left_and_named_and_the_others_submitted(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 7", squeue="", scontrol="")
    option = tmp_path / "mine" / "optimizer" / "ours.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("_target_: torch.optim.SGD\nlr: 0.1\n")
    sweep = Path("outputs/sweeps/one")
    command = (*SWEEP, "optimizer=ours", "logger=none", "--config-dir", "mine")
    assert trainopt(*(word for word in command if word != "cluster.gpus=0"), "seed=1,2").code == 0
    option.write_text("_target_: torch.optim.SGD\nlr: 0.3\n")
    first, second = (sweep / job["folder"] for job in read_jobs(sweep))
    differs = f"{first}: holds a run with another configuration: optimizer.lr (0.1 there, 0.3 here)"
    end = "and submit again, or give hydra.sweep.dir=DIR for a new sweep\n"
    result = trainopt("submit", *command, "seed=1,2,3")
    assert result.code == 1
    assert "2 outdated; 1 left\nsubmitted 1 run in 1 task" in result.out
    status = f"trainopt status {sweep} names them"
    assert result.err == f"trainopt: 2 jobs are outdated ({status}), as {differs}; remove their folders {end}"
    shutil.rmtree(second)
    result = trainopt("submit", "--dry-run", *command, "seed=1,2")
    assert (result.code, result.err) == (1, f"trainopt: a job is outdated: {differs}; remove the folder {end}")
    shutil.rmtree(first)
    result = trainopt("submit", *command, "seed=1,2")
    assert (result.code, result.err) == (0, "")
    assert "submitted 2 runs" in result.out


def test_jobs_with_the_same_error_share_a_line(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 7", squeue="", scontrol="")
    assert "submitted 3 runs" in trainopt("submit", *SWEEP, "seed=1,2,3").out
    sweep = Path("outputs/sweeps/one")
    for job in read_jobs(sweep):
        (sweep / job["folder"]).mkdir()
        (sweep / job["folder"] / "log.txt").write_text("")
        write_json(sweep / job["folder"] / "summary.json", {"status": "failed", "error": "no memory"})
    line = f"3 jobs: no memory; log of the first: {sweep}/mlp-digits-sgd,duration=2steps,seed=1/log.txt\n"
    assert trainopt("status", str(sweep)).out.count("no memory") == 1
    assert line in trainopt("status", str(sweep)).out
    assert f"failed before: {line}" in trainopt("submit", *SWEEP, "seed=1,2,3").out


@pytest.mark.parametrize("moment", ["setup", "start"])
def test_a_signal_before_python_handles_it_is_not_lost(
    submitted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    if subprocess.run(["env", "--block-signal=USR2", "true"], capture_output=True, check=False).returncode:
        pytest.skip("env of coreutils before 8.31")
    use_programs(monkeypatch, tmp_path / "bin", scontrol=f"echo $* >> {tmp_path}/asked")
    _, path = submitted
    setup = f"cluster.setup=['touch {tmp_path}/begun','sleep 0.3']"
    settings = read_settings([setup], [], "slurm", SlurmSettings)
    script = batch_script(path, Submission("s.1", [], [["a", "b"]]), settings, task.__name__)
    env = {**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    with subprocess.Popen(["bash", "-c", script], env=env, stderr=subprocess.PIPE, text=True) as process:
        command = Path(f"/proc/{process.pid}/cmdline")
        python = sys.executable.encode()
        while not (tmp_path / "begun").exists() or (moment == "start" and not command.read_bytes().startswith(python)):
            time.sleep(0.001)
        process.send_signal(signal.SIGUSR2)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert (tmp_path / "asked").read_text() == "requeue 7_0\n"


def test_a_folder_with_quotes_is_a_folder_of_steps(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(steps, "run_step", lambda command, interrupt: commands.append(command) or 0)
    run_steps(tmp_path / 'a "b"', [{"folder": "c", "overrides": ["seed=1"]}], [], Interrupt())
    ((*_, seed, place),) = commands
    assert (seed, parse_override(place).value()) == ("seed=1", str(tmp_path / 'a "b"/c'))


@pytest.mark.parametrize(
    ("search", "table"),
    [
        ("optuna hydra.sweeper.n_trials=2 optimizer.lr=tag(log,interval(1e-3,1))", "no job has begun\n"),
        pytest.param(
            "tournament optimizer=sgd,adam hydra.sweeper.exponents=[1,2] hydra.sweeper.factors=[]"
            " hydra.sweeper.steps=1 hydra.sweeper.over_last=1",
            "4 jobs: 4 missing\n",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_search_whose_workers_end_before_its_first_trial_says_why(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: str, table: str
) -> None:
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 'bad account' >&2; exit 1", squeue="", scontrol="")
    typed = (*f"hydra/sweeper={search}".split(), "hydra.sweep.dir=one", "cluster.array_parallelism=2")
    command = ("submit", *SWEEP, *typed)
    assert trainopt(*command).code == 2
    assert not Path("one").exists(), "nothing was submitted"
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 7")
    assert "submitted 2 workers of the search: SLURM job 7" in trainopt(*command).out
    (path,) = Path("one/cluster").glob("*.json")
    open_line = "the search has not ended: trials are missing; trainopt submit with the same arguments continues it\n"
    out = trainopt("status", "one").out
    assert table in out
    assert out.endswith(f"\n{open_line}"), "of workers that were cancelled while they waited"

    for index in (0, 1):
        log_path(path, index).write_text("trainopt: cluster.setup: false: ended the task with code 1\n")
    use_programs(monkeypatch, tmp_path / "bin", squeue=line_of(path, ArrayTaskID="1", State="RUNNING"))
    reason = "ended before the search did: cluster.setup: false: ended the task with code 1; log"
    out = trainopt("status", "one").out
    assert out.endswith(f"workers: 7_1 running\nworker 0: {reason}: {log_path(path, 0)}\n"), out
    use_programs(monkeypatch, tmp_path / "bin", squeue="")
    line = f"2 workers: {reason} of the first: {log_path(path, 0)}\n"
    assert trainopt("status", "one").out.endswith(f"\n{line}{open_line}")
    log_path(path, 1).write_text("*** JOB 7 ON n4 CANCELLED AT 2026-01-02T03:04:05 ***\n")
    assert f"\nworker 0: {reason}: {log_path(path, 0)}\n{open_line}" in trainopt("status", "one").out
    use_programs(monkeypatch, tmp_path / "bin", squeue="echo 'Unable to contact' >&2; exit 1")
    status = trainopt("status", "one")
    assert status.err == "trainopt: which jobs are in the queue is unknown: squeue: Unable to contact\n"
    assert "worker" not in status.out, "it may wait or run"

    use_programs(monkeypatch, tmp_path / "bin", squeue="")
    os.utime(log_path(path, 0), (1e9, 1e9))
    assert "worker" not in trainopt("status", "one").out, "it was submitted again since"
    os.utime(log_path(path, 0))
    assert f"failed before: worker 0: {reason}: {log_path(path, 0)}\nsubmitted 2" in trainopt(*command).out
