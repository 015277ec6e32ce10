"""What is submitted, and what the queue says of it, without a SLURM."""

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.clusters import use_programs
from trainopt.runner.cluster import slurm
from trainopt.runner.cluster.queue import tasks_of, with_task
from trainopt.runner.cluster.ray import note_ended, read_ended
from trainopt.runner.cluster.scheduler import NoAnswer
from trainopt.runner.cluster.settings import RaySettings, SlurmSettings, split_arguments
from trainopt.runner.cluster.settings import read_settings as settings_of
from trainopt.runner.cluster.slurm import COLUMNS, batch_script, check_processes, read_task
from trainopt.runner.cluster.submissions import Submission, read_submission, read_submissions
from trainopt.runner.records.job_table import JobStatus
from trainopt.runner.system.errors import UserError


def read_settings(typed: list[str], folders: list[Path]) -> SlurmSettings:
    """Returns the settings of a command line for SLURM."""
    return settings_of(typed, folders, "slurm", SlurmSettings)


def line_of(**values: str) -> str:
    """Returns a line of squeue."""
    row = {"Name": "a.1", "ArrayJobID": "17", "ArrayTaskID": "3", "State": "PENDING", "Reason": "Resources"}
    row |= {"NodeList": "", "RestartCnt": "0", "PreemptTime": "N/A"} | values
    return "".join(row[name].ljust(width) for name, width in COLUMNS.items())


def test_settings_are_those_of_the_files_and_then_what_is_typed(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "mine.yaml").write_text("partition: long\ntime: 1:00:00\ngpus: 2\n")
    typed, others = split_arguments(["-m", "cluster=mine", "seed=1,2", "cluster.gpus=4", "+cluster.extra.qos=high"])
    settings = read_settings(typed, [tmp_path])
    assert others == ["-m", "seed=1,2"]
    assert (settings.partition, settings.time, settings.gpus) == ("long", "1:00:00", 4)
    assert (settings.extra, settings.runs_per_job, settings.setup) == ({"qos": "high"}, 1, [])
    assert read_settings([], []).partition is None
    (tmp_path / "cluster" / "slurm.yaml").write_text("gpus: 0\naccount: lab\n")
    settings = read_settings(typed[:1], [tmp_path])  # what a lab's slurm.yaml leaves out is ours
    assert (settings.account, settings.gpus, settings.grace) == ("lab", 2, 120)
    for typed_key, line in (("gpus_per_node", "did you mean cluster.gpus?"), ("qos", "cluster.extra={qos: VALUE}")):
        with pytest.raises(UserError, match=re.escape(line)):
            read_settings([f"cluster.{typed_key}=2"], [])
    with pytest.raises(UserError, match="there is no cluster/mine.yaml; --config-dir DIR names the folder that has it"):
        read_settings(typed, [])


def test_a_batch_script_asks_for_what_was_set(tmp_path: Path) -> None:
    typed = [
        *("cluster.time=2:00:00", "cluster.cpus=8", "cluster.memory=16G", "cluster.array_parallelism=5"),
        *("cluster.setup=['module load cuda']", "cluster.extra={exclusive: true, comment: 'two words', qos: null}"),
    ]
    submission = Submission("a.1", ["-m", "seed=1,2"], [["one"], ["two"]])
    lines = batch_script(tmp_path / "a.1.json", submission, read_settings(typed, []), "some.module").splitlines()
    asked = {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"job-name=a.1", "array=0-1%5", "time=2:00:00", "cpus-per-task=8", "mem=16G", "gpus-per-node=1"}
    assert asked >= {"requeue", "signal=B:USR2@120", "exclusive", 'comment="two words"'}
    assert not any(text.startswith(("partition", "account", "qos")) for text in asked)
    assert "module load cuda" in lines[-4:-1]
    assert lines[-1].endswith(f"-m some.module {tmp_path}/a.1.json")


def test_gpus_may_have_a_type(tmp_path: Path) -> None:
    for typed, asked in {
        "a100:2": "a100:2",
        "1g.10gb:1": "1g.10gb:1",
        "3": "3",
        "a100": None,
        "gpu:a100:1": None,
    }.items():
        if asked is None:
            with pytest.raises(UserError, match=f"cluster.gpus={typed}: must be a number, as 2, or .* as a100:2"):
                read_settings([f"cluster.gpus={typed}"], [])
            continue
        settings = read_settings([f"cluster.gpus={typed}"], [])
        script = batch_script(tmp_path / "a.1.json", Submission("a.1", [], [["one"]]), settings, "some.module")
        assert f"#SBATCH --gpus-per-node={asked}" in script.splitlines()
    with pytest.raises(UserError, match="write cluster.gpus=a100:4 in its place"):
        read_settings(["cluster.extra={gres: 'gpu:a100:4'}"], [])


def test_options_of_sbatch_are_added_to_those_of_the_lab(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "slurm.yaml").write_text("extra: {qos: long, nice: 5}\n")
    (tmp_path / "cluster" / "big.yaml").write_text("extra: {constraint: a100}\n")
    (tmp_path / "cluster" / "empty.yaml").write_text("# nothing yet\n")
    typed = ["cluster=big", "cluster=empty", "cluster.extra={nice: 7, qos: null}", "cluster.extra.comment=x"]
    extra = read_settings(typed, [tmp_path]).extra
    assert extra == {"qos": None, "nice": 7, "constraint": "a100", "comment": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gpus: 1\n time: [3\n", r"bad.yaml, line 2, column \d+: is no valid YAML"),
        (b"- gpus\n", "bad.yaml: holds no keys"),
        (b"# \xff\n", "bad.yaml: is no text in UTF-8"),
        (b"extra: [exclusive]\n", "bad.yaml: extra=.*: must be a section"),
        (b"partiton: gpu\n", r"^/.*bad.yaml: cluster.partiton: no such key; did you mean cluster.partition"),
        (b"cpus: many\n", r"^/.*bad.yaml: cluster.cpus=many: must be"),
        (b"time: 4h\n", r"^/.*bad.yaml: cluster.time=4h: must be"),
        (b"extra: {mem: 4}\n", r"^/.*bad.yaml: cluster.extra.mem: write cluster.memory"),
        (b"memory: 16\n", r"^/.*bad.yaml: cluster.memory=16: is in megabytes without a unit; write 16G"),
    ],
)
def test_a_bad_file_of_settings_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "bad.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_settings(["cluster=bad"], [tmp_path])
    (tmp_path / "cluster" / "bad.yaml").write_text("cpus: 2\nextra: {nodes: 1}\ntime: 4h\n")
    for typed in ("cluster.time=5h", "cluster.extra={nodes: 2}", "cluster.extra.nodes=2"):
        with pytest.raises(UserError, match=rf"^{typed[:12]}"):
            read_settings(["cluster=bad", "cluster.time=4:00:00", typed], [tmp_path])
    with pytest.raises(UserError, match=r"^cluster.cpus=few: must be"):
        read_settings(["cluster=bad", "cluster.cpus=few"], [tmp_path])


def test_submissions_are_read_as_they_were_written(tmp_path: Path) -> None:
    submission = Submission("a.1", ["-m", "seed=1,2"], [["one", "two"], []])
    path = submission.write(tmp_path)
    assert read_submissions(tmp_path) == [submission]
    path.write_text("{")
    with pytest.raises(UserError, match=r"a\.1\.json: is gone, or no submission of trainopt; remove it"):
        read_submission(path)
    assert read_submissions(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("state", "values", "expected"),
    [
        ("missing", {}, ("queued", "17_3", None, "Resources")),
        ("interrupted", {"RestartCnt": "1", "Reason": "BeginTime"}, ("requeued", "17_3", None, "BeginTime")),
        ("interrupted", {"State": "COMPLETING", "NodeList": "n4", "PreemptTime": "2026-01-02T03:04:05"}, "preempted"),
        ("missing", {"State": "RUNNING", "Reason": "None", "NodeList": "n4"}, ("starting", "17_3", "n4", None)),
        ("missing", {"State": "CONFIGURING", "Reason": "None", "NodeList": "n4"}, ("configuring", "17_3", "n4", None)),
        ("interrupted", {"State": "COMPLETING", "Reason": "None", "NodeList": "n4"}, "completing"),
        ("running", {"State": "RUNNING", "Reason": "None", "NodeList": "n4"}, ("running", "17_3", "n4", None)),
        ("done", {"State": "RUNNING", "Reason": "None", "NodeList": "n4"}, ("done", None, None, None)),
    ],
)
def test_the_state_of_a_job_in_the_queue(state: str, values: dict[str, str], expected: object) -> None:
    task = read_task(line_of(**values))
    assert task is not None
    job = with_task(JobStatus("one", [], state), task, is_next=True)
    seen = (job.state, job.task, job.node, job.reason)
    assert expected in (seen, seen[0])


def test_what_is_no_task_of_an_array_is_left_out() -> None:
    assert read_task(line_of(ArrayTaskID="N/A")) is None
    assert read_task(line_of(ArrayTaskID="4-11")) is None


def test_a_run_of_several_processes_asks_for_as_many(tmp_path: Path) -> None:
    typed = ["cluster.nodes=2", "cluster.processes=3", "cluster.gpus=4"]
    settings = read_settings(typed, [])
    check_processes(settings, False, "basic")
    script = batch_script(tmp_path / "a.1.json", Submission("a.1", [], [["one"]]), settings, "some.module")
    assert {"--nodes=2", "--ntasks=6", "--ntasks-per-node=3", "--gpus-per-node=4"} <= set(script.split())
    with pytest.raises(UserError, match=r"write cluster.gpus=3, or 0"):
        check_processes(read_settings([*typed[:2], "cluster.gpus=1"], []), False, "basic")
    with pytest.raises(UserError, match=r"write cluster.gpus=a100:3, or 0"):
        check_processes(read_settings([*typed[:2], "cluster.gpus=a100:1"], []), False, "basic")
    with pytest.raises(UserError, match="trials of a search are runs of one process"):
        check_processes(settings, True, "basic")
    with pytest.raises(UserError, match="leave hydra/launcher=joblib out"):
        check_processes(settings, False, "joblib")


def test_settings_of_ray() -> None:
    settings = settings_of(["cluster.memory=16G", "cluster.extra={num_gpus: 0.5}"], [], "ray", RaySettings)
    assert (settings.memory_bytes, settings.gpus, settings.extra) == (16 << 30, 1, {"num_gpus": 0.5})
    assert settings_of(["cluster.memory=512"], [], "ray", RaySettings).memory_bytes == 512 << 20
    with pytest.raises(UserError, match="cluster.memory=much: must be as 16G or 4000M"):
        settings_of(["cluster.memory=much"], [], "ray", RaySettings)
    with pytest.raises(UserError, match=r"cluster.gpus=a100:1: .*accelerator_type"):
        settings_of(["cluster.gpus=a100:1"], [], "ray", RaySettings)
    with pytest.raises(UserError, match=r"cluster.partition: no such key; with --to ray there are .*address"):
        settings_of(["cluster.partition=long"], [], "ray", RaySettings)


def test_which_tasks_have_ended_is_noted_beside_the_submission(tmp_path: Path) -> None:
    path = Submission("a.1", ["-m"], [["one"], ["two"]], "ray", {"address": "http://127.0.0.1:1"}).write(tmp_path)
    assert read_ended(path) == set()
    note_ended(path, 1)
    note_ended(path, 0)
    assert read_ended(path) == {0, 1}
    assert read_submissions(tmp_path)[0].scheduler == "ray"
    assert list(tasks_of(tmp_path)) == [], "nobody is asked for tasks that have ended"


def test_a_submission_that_slurm_may_have_taken_is_kept(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"
    programs = tmp_path / "bin"
    use_programs(monkeypatch, programs, sbatch=silent, squeue="", scontrol="")
    command = ("submit", "-m", "model=mlp", "seed=1,2", "cluster.gpus=0", "hydra.sweep.dir=a")
    result = trainopt(*command)
    assert result.code == 2
    assert "operation; trainopt status a shows tasks that it took, which are not submitted twice" in result.err
    (first,) = read_submissions(tmp_path / "a")

    columns = "".join(f"%-{width}s" for width in slurm.COLUMNS.values())
    lines = "; ".join(f"printf '{columns}\\n' $name 7 {index} PENDING None '' 0 N/A" for index in (0, 1))
    queue = f'for word; do case $word in --name=*) name="${{word#--name=}}"; esac; done; {lines}'
    use_programs(monkeypatch, programs, squeue=queue)
    assert "2 queued; nothing else is left" in trainopt(*command).out
    assert read_submissions(tmp_path / "a") == [first]
    result = trainopt(*command[:-1], "hydra.sweep.dir=b")
    assert (result.code, "submitted 2 runs in 2 tasks: SLURM job 7" in result.out) == (0, True)

    monkeypatch.setattr(slurm, "TIMEOUT_SECONDS", 0.01)
    with pytest.raises(NoAnswer, match="sleep does not answer"):
        slurm.run(["sleep", "9"])


def test_a_refused_submission_leaves_nothing(
    trainopt: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = trainopt("submit", "-m", "seed=1,2")
    assert "sbatch is not on this machine" in refused.err or shutil.which("sbatch")
    programs = tmp_path / "bin"
    use_programs(monkeypatch, programs, sbatch="echo 'error: Invalid account' >&2; exit 1", squeue="", scontrol="")
    refused = trainopt("submit", "-m", "seed=1,2", "cluster.gpus=0")
    assert (refused.code, refused.err) == (2, "trainopt: sbatch: Invalid account\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Submission, "write", full)
    refused = trainopt("submit", "-m", "seed=1,2", "cluster.gpus=0", "hydra.sweep.dir=b")
    assert refused.code == 2
    assert refused.err.startswith("trainopt: b: cannot be written (No space left on device); hydra.run.dir=DIR or")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != programs]


ADVICE = "; cluster.setup=['export PYTHONPATH=FOLDER'] says where nodes find a module that is only there\n"
IMPORTING = ("submit", "-m", "model=mlp", "duration=2steps", "cluster.gpus=0", "hydra.sweep.dir=one")


@pytest.fixture
def own_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue, modules of the user's, and an option of theirs."""
    use_programs(monkeypatch, tmp_path / "bin", sbatch="echo 7", squeue="", scontrol="")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_classes.py").write_text("from torch.optim import SGD\n")
    (tmp_path / "needs_more.py").write_text("import nowhere_installed\n")
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "optimizer" / "bad.yaml").write_text("_target_: nosuch.Class\nlr: 0.1\n")


@pytest.mark.usefixtures("own_classes")
@pytest.mark.parametrize(
    "typed",
    [
        ["optimizer._target_=nosuch.Class"],
        ["optimizer._target_='nosuch.Class',own_classes.SGD"],
        ["--config-dir", "mine", "optimizer=sgd,bad"],
        [
            *("hydra/sweeper=tournament", "hydra.sweeper.steps=2", "hydra.sweeper.over_last=1"),
            'hydra.sweeper.methods=["optimizer=adam","optimizer._target_=nosuch.Class"]',
        ],
    ],
)
def test_a_class_that_cannot_be_imported_is_not_queued(trainopt: Callable[..., Any], typed: list[str]) -> None:
    result = trainopt(*IMPORTING, *typed)
    assert result.code == 2
    assert "optimizer._target_=nosuch.Class: cannot be imported; there is no module nosuch" in result.err
    assert result.err.endswith(ADVICE)
    assert not Path("one").exists()


@pytest.mark.usefixtures("own_classes")
def test_a_module_that_only_nodes_may_have_needs_a_setup(trainopt: Callable[..., Any]) -> None:
    setup = "cluster.setup=['export PYTHONPATH=/nodes']"
    result = trainopt(*IMPORTING, "optimizer._target_=own_classes.SDG", setup)
    assert (result.code, Path("one").exists()) == (2, False)
    assert "optimizer._target_=own_classes.SDG: cannot be imported; own_classes (own_classes.py) has no" in result.err
    assert "SDG; did you mean own_classes.SGD?" in result.err
    assert trainopt(*IMPORTING, "optimizer._target_=needs_more.Class").err.endswith(ADVICE)
    result = trainopt(*IMPORTING, "optimizer._target_=needs_more.Class", setup)
    assert (result.code, "SLURM job 7" in result.out) == (0, True)
    assert "note: optimizer._target_=needs_more.Class: cannot be imported" in result.err
    assert "cluster.setup must make it known to the tasks\n" in result.err
