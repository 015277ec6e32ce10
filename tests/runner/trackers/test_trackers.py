"""Trackers with their real packages, offline: what they hold is what is in the run's folder, whatever happened."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.cli import exit_code, forked, start_fork
from helpers.fixtures import made_up_run, made_up_sweep
from helpers.runs import rows, summary
from trainopt.runner import MLflow, Trackio, WandB
from trainopt.runner.commands.sync import deliver
from trainopt.runner.records.logger import curve_values
from trainopt.runner.trackers.weights_and_biases import decoded, is_complete

pytestmark = pytest.mark.filterwarnings("ignore")  # of their packages, which the tests read with
RUN = ("model=mlp", "data.limit=64", "batching.size=16", "log_every=1steps", "duration=12steps", "hydra.run.dir=run")


@pytest.fixture(scope="module")
def trackio_folder(tmp_path_factory):
    """The folder of Trackio's database, which its package reads once."""
    return tmp_path_factory.mktemp("trackio")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path, trackio_folder):
    """Everything stays below scratch folders."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TRACKIO_DIR", str(trackio_folder))
    monkeypatch.chdir(tmp_path)


def expected(run: Path) -> list:
    """(step, values) of each record."""
    return [(row["step"], curve_values(row)) for row in rows(run)]


def in_wandb(run: Path):
    """The records of W&B's offline files, in the order of its sessions, decoded by its own protocol."""
    for path in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        yield from decoded(path.read_bytes())


def wandb_rows(run: Path) -> list:
    """(step, values) of each row of W&B's history; its own numbers of rows are those of the records."""
    found = []
    for kind, record in in_wandb(run):
        if kind == "history":
            values = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            assert record.history.step.num == len(found)
            curves = {name: value for name, value in values.items() if "/" in name}
            found.append((values["step"], curves))
    return found


def mlflow_run(run: Path):
    """(client, run) of MLflow, which has one run of the folder's name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("trainopt")
    runs = client.search_runs([experiment.experiment_id])
    (of_name,) = [one for one in runs if one.info.run_name == run.name]
    return client, of_name


def check_mlflow(run: Path) -> None:
    """Asserts that each curve of MLflow has each of its points once, in order."""
    client, page = mlflow_run(run)
    for name in {name for _, values in expected(run) for name in values}:
        points = [(metric.step, metric.value) for metric in client.get_metric_history(page.info.run_id, name)]
        assert sorted(points) == [(step, values[name]) for step, values in expected(run) if name in values], name


def trackio_rows(run: Path) -> list:
    """(step, values) of each row of Trackio, which has one run of the folder."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    name = f"{run.name}-{json.loads((run / 'trackio.json').read_text())['id']}"
    (page,) = [one for one in trackio.Api().runs("trainopt") if one.name == name]
    logs = SQLiteStorage.get_logs("trainopt", page.name, run_id=page.id)
    return [
        (log["step"], {name: value for name, value in log.items() if "/" in name})
        for log in logs
        if "train_seconds" in log
    ]


@pytest.mark.slow
def test_wandb_offline_has_every_record_the_configuration_and_the_summary(tmp_path):
    sweep = made_up_sweep(tmp_path / "tuning", [{"config": {"optimizer.lr": 0.2}}])
    (run,) = sweep.glob("*/")
    line = deliver(run, WandB(project="mine", tags=["a"], notes="try"))
    assert line.startswith(f"9 records to wandb: offline; wandb sync {run}/wandb/offline-run-")
    assert wandb_rows(run) == expected(run)
    kinds = dict(in_wandb(run))
    page = kinds["run"].run
    config = {item.key: json.loads(item.value_json) for item in page.config.update}
    assert (page.project, page.display_name, page.run_group, page.notes) == ("mine", run.name, "tuning", "try")
    assert (list(page.tags), config["optimizer"]["lr"], config["choices"]["model"]) == (["a"], 0.2, "mlp")
    assert config["environment"]["commit"] == "abc"
    values = {
        item.key or item.nested_key[0]: json.loads(item.value_json)
        for kind, record in in_wandb(run)
        if kind == "summary"
        for item in record.summary.update
    }
    assert (values["final/top1"], values["status"], values["steps"]) == (90.0, "finished", 40)
    assert kinds["exit"].exit.exit_code == 0
    told = deliver(run, WandB(project="mine"))  # offline, as all tests are
    files = f"{run.relative_to(tmp_path)}/wandb/offline-run-*"
    assert told.startswith(f"nothing new for wandb; nothing is uploaded yet: wandb sync {files}, or ")


@pytest.mark.slow
def test_the_end_of_a_large_file_of_wandb_is_seen_in_its_tail(tmp_path):
    run = made_up_run(tmp_path / "run", curve=[float(k) for k in range(200)])
    deliver(run, WandB())
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    content = path.read_bytes()
    assert len(content) > 4 * 2**15
    assert is_complete(path)
    assert len(wandb_rows(run)) == 399
    path.write_bytes(content[:-200])
    assert not is_complete(path)


@pytest.mark.slow
@pytest.mark.parametrize(("status", "code"), [("diverged", 0), ("failed", 1), ("interrupted", 255)])
def test_the_states_of_wandb(tmp_path, status, code):
    run = made_up_run(tmp_path / "run", status=status)
    deliver(run, WandB())
    kinds = dict(in_wandb(run))
    assert kinds["exit"].exit.exit_code == code
    assert list(kinds["run"].run.tags) == (["diverged"] if status == "diverged" else [])


@pytest.mark.slow
def test_mlflow_and_trackio_have_every_record(tmp_path):
    for status, state in [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]:
        run = made_up_run(tmp_path / status, status=status, config={"optimizer.lr": 0.2, "long": "x" * 7000})
        assert deliver(run, MLflow(tags={"team": "a"}, notes="try")).startswith("9 records to mlflow: run ")
        assert deliver(run, MLflow()) == "nothing new for mlflow"
        check_mlflow(run)
        _, page = mlflow_run(run)
        assert (page.info.status, page.data.tags["status"]) == (state, status)
    assert (page.data.params["optimizer.lr"], page.data.params["choices.model"]) == ("0.2", "mlp")
    tags = {"team": "a", "mlflow.note.content": "try", "environment.commit": "abc"}
    assert tags.items() <= page.data.tags.items()
    assert page.data.metrics["final/top1"] == 90.0
    assert deliver(run, Trackio(group="g")).startswith("9 records to trackio: run interrupted-")
    assert trackio_rows(run) == expected(run)
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (board,) = [one for one in trackio.Api().runs("trainopt") if one.name.startswith("interrupted-")]
    assert (board.config["optimizer.lr"], board.config["_Group"]) == (0.2, "g")
    last = SQLiteStorage.get_logs("trainopt", board.name, run_id=board.id)[-1]
    assert (last["summary/final/top1"], last["status"], last["step"]) == (90.0, "interrupted", 40)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [WandB, MLflow, Trackio])
def test_a_session_that_was_killed_is_completed_by_the_next(tmp_path, cls):
    """Some rows are with the tracker, but nothing says which."""
    run = made_up_run(tmp_path / "run", curve=[float(k) for k in range(600)])
    script = f"""
import os, time
from pathlib import Path
from trainopt.runner import {cls.__name__}
from trainopt.runner.trackers.delivery import Delivery

tracker = {cls.__name__}()
send = tracker.send
tracker.send = lambda rows: (send(rows[:150]), time.sleep(2), os._exit(9))
with Delivery(Path("run"), tracker) as delivery:
    delivery.open()
    delivery.send()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    state = json.loads((run / f"{cls.name}.json").read_text())["sent"]
    assert [entry["sending"] for entry in state.values()] == [500]
    time.sleep(1)  # W&B's own process writes its file
    deliver(run, cls())
    if cls is WandB:
        assert wandb_rows(run) == expected(run)
        assert len(list(run.glob("wandb/offline-run-*"))) == 2
    elif cls is MLflow:
        check_mlflow(run)
    else:
        assert trackio_rows(run) == expected(run)


@pytest.mark.slow
def test_a_run_with_all_of_them_that_is_killed_and_resumed_is_one_run_of_each(tmp_path):
    """Killed after rows that no checkpoint covers were sent; then interrupted; then it ends."""
    command = (*RUN, "logger=[wandb,mlflow,trackio]", "checkpoint_every=4steps", "+probe.slow._target_=slow.Slow")
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "class Slow:\n"
        "    every = '1steps'\n"
        "    def before_step(self, run, batch): pass\n"
        "    def after_step(self, run, batch):\n"
        "        time.sleep(1.5)\n"
        "        return {'value': run.progress.step}\n"
    )
    pid = start_fork(*command, folder=tmp_path)
    metrics, until = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    sent = [tmp_path / f"run/{name}.json" for name in ("wandb", "mlflow", "trackio")]
    while not metrics.exists() or len(rows(tmp_path / "run")) < 15 or not all(path.exists() for path in sent):
        assert time.monotonic() < until
        time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    assert forked(*command, folder=tmp_path) == 0
    run = tmp_path / "run"
    assert summary(run)["status"] == "finished"
    assert wandb_rows(run) == expected(run)
    check_mlflow(run)
    assert trackio_rows(run) == expected(run)
    assert {record.run.run_id for kind, record in in_wandb(run) if kind == "run"} == {
        json.loads((run / "wandb.json").read_text())["id"]
    }
    assert mlflow_run(run)[1].info.status == "FINISHED"


@pytest.mark.slow
def test_a_tracker_that_cannot_be_reached_is_named_once_and_completed_later(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    settings = ("logger.wandb.timeout=2", "logger.mlflow.timeout=2")
    before = time.monotonic()
    assert forked(*RUN, "logger=[wandb,mlflow]", *settings, folder=tmp_path) == 0
    assert time.monotonic() - before < 30
    lines = (tmp_path / "run/log.txt").read_text().splitlines()
    for name in ("wandb", "mlflow"):
        (line,) = [line for line in lines if line.startswith(f"{name}: ")]
        assert line.endswith(f"; the run is not affected; trainopt sync run --to {name} sends the rest")
    assert summary(tmp_path / "run")["status"] == "finished"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert forked("sync", "run", "--to", "mlflow", folder=tmp_path) == 0
    check_mlflow(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("time.sleep(100)", "did not take all records within 1 s"),
        ("os.kill(os.getpid(), 9)", "its process was killed by signal 9"),
        ("raise RuntimeError('no\\nluck')", "failed (no luck)"),
        ("sys.exit(1)", "its process ended with exit code 1"),
    ],
)
def test_a_tracker_never_harms_a_run(tmp_path, body, message):
    (tmp_path / "theirs.py").write_text(
        "import os, sys, time\n"
        "from trainopt.runner import Tracker\n"
        "class Theirs(Tracker):\n"
        "    name = 'mine'\n"
        "    destination = 'nowhere'\n"
        "    def __init__(self, timeout=1.0, folder=None, say=print):\n"
        "        super().__init__('json', {}, timeout, folder, say)\n"
        "    def open(self, page): pass\n"
        f"    def send(self, rows):\n        {body}\n"
        "    def unsent(self, rows): return rows\n"
        "    def finish(self, status, summary): pass\n"
    )
    assert forked(*RUN, "logger=[]", "+logger.mine._target_=theirs.Theirs", folder=tmp_path) == 0
    lines = [line for line in (tmp_path / "run/log.txt").read_text().splitlines() if line.startswith("mine: ")]
    rest = "; the run is not affected; trainopt sync run --to mine sends the rest"
    assert lines[-1] == f"mine: {message}{rest}"
    assert len(lines) == 2  # where it is, and this
    assert summary(tmp_path / "run")["status"] == "finished"


@pytest.mark.slow
def test_a_sweep_is_sent_by_one_command_and_tensorboard_stays(finished, tmp_path):
    result = finished("-m", *RUN[:-1], "seed=0,1", "hydra.sweep.dir=sweep", "logger=tensorboard")
    assert result.code == 0
    first = finished("sync", "sweep", "--to", "mlflow", "logger.mlflow.experiment=mine")
    assert (first.code, first.out.count("records to mlflow")) == (0, 2)
    again = finished("sync", "sweep", "--to", "mlflow", "logger.mlflow.experiment=mine")
    assert (again.code, again.out.count("nothing new for mlflow")) == (0, 2)
    assert math.prod(len(list(run.glob("events*"))) for run in (tmp_path / "sweep").glob("*/")) == 1
