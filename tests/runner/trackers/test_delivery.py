"""What is in a run's folder reaches a tracker once: also after crashes, and after a run was cut back and resumed."""

import json
import os
import signal
import threading

import pytest

from helpers.fixtures import made_up_run
from helpers.runs import rows
from trainopt.runner import Tracker
from trainopt.runner.commands.sync import run_folders, tracker_of
from trainopt.runner.records.logger import curve_values
from trainopt.runner.records.metrics import DamagedMetrics, void_record
from trainopt.runner.system.errors import UserError
from trainopt.runner.trackers.delivery import Delivery, TrackerError


class Store(Tracker):
    """A tracker that keeps everything in a file, and can fail.

    Args:
        path: of the file.
        fails_after: rows of a session that it takes; then the next one ends the call, or the whole process.
        how: raise, or die.
    """

    name = "store"

    def __init__(self, path, fails_after=None, how="raise", timeout=5.0, folder=None, say=print):
        settings = {"path": str(path), "fails_after": fails_after, "how": how}
        super().__init__("json", settings, timeout, folder, say)
        self.path, self.fails_after, self.how = path, fails_after, how

    destination = "here"

    def content(self):
        try:
            with open(self.path) as file:
                return json.load(file)
        except FileNotFoundError:
            return {"rows": [], "pages": [], "ends": []}

    def add(self, key, value):
        content = self.content()
        content[key].append(value)
        with open(self.path, "w") as file:
            json.dump(content, file)

    def open(self, page):
        self.add("pages", [page.id, page.name, page.group])

    def send(self, rows):
        for row in rows:
            if self.fails_after is not None:
                self.fails_after -= 1
                if self.fails_after < 0:
                    if self.how == "die":
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise ConnectionError("the cable\nis out")
            self.add("rows", [row.number, row.step, row.values])

    def unsent(self, rows):
        return [row for row in rows if row.number not in [number for number, *_ in self.content()["rows"]]]

    def finish(self, status, summary):
        self.add("ends", [status, summary["final"]["top1"]])


class AtOnce(Store):
    sends_at_once = True


@pytest.fixture
def run(tmp_path):
    return made_up_run(tmp_path / "run")


def deliver(run, tracker):
    """Sends what is new, and returns the number of rows."""
    with Delivery(run, tracker) as delivery:
        if delivery.is_complete:
            return None
        delivery.open()
        count = delivery.send()
        delivery.finish()
        return count


def check(run, tracker, ids=1):
    """Asserts that the store has each record once, in order, under one id."""
    content = tracker.content()
    expected = [[k, row["step"], curve_values(row)] for k, row in enumerate(rows(run))]
    assert content["rows"] == expected
    assert len({page[0] for page in content["pages"]}) == ids


def append(run, step):
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"kind": "train", "step": step, "total": 0.5, "train_seconds": 9.25}) + "\n")


@pytest.mark.parametrize("cls", [Store, AtOnce])
def test_each_record_is_sent_once_and_again_only_what_is_new(run, tmp_path, cls):
    tracker = cls(tmp_path / "store")
    assert deliver(run, tracker) == 9
    assert deliver(run, tracker) is None
    append(run, 50)
    assert deliver(run, tracker) == 1
    check(run, tracker)
    assert tracker.content()["ends"] == [["finished", 90.0]] * 2
    assert not (run / "store.lock").exists()


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_record_that_became_void_is_not_sent_and_moves_no_other(run, tmp_path, is_sent):
    tracker = AtOnce(tmp_path / "store")
    numbers = list(range(9))
    if is_sent:
        deliver(run, tracker)
    else:
        numbers.remove(7)
    void_record(run / "metrics.jsonl", "train", 40)
    append(run, 50)
    append(run, 60)
    deliver(run, tracker)
    assert [number for number, *_ in tracker.content()["rows"]] == [*numbers, 9, 10]
    assert deliver(run, tracker) is None


def test_records_that_cannot_be_read_leave_no_lock(run, tmp_path):
    (run / "metrics.jsonl").write_text("{\n")
    threads = threading.active_count()
    with pytest.raises(DamagedMetrics):
        deliver(run, Store(tmp_path / "store"))
    assert not (run / "store.lock").exists()
    assert threading.active_count() == threads


def test_a_new_summary_alone_is_sent(run, tmp_path):
    tracker = Store(tmp_path / "store")
    deliver(run, tracker)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "diverged"}))
    assert deliver(run, tracker) == 0
    assert [end for end, _ in tracker.content()["ends"]] == ["finished", "diverged"]


@pytest.mark.parametrize("cls", [Store, AtOnce])
@pytest.mark.parametrize("taken", [0, 4, 8])
def test_a_failure_sends_nothing_twice_and_loses_nothing(run, tmp_path, cls, taken):
    with pytest.raises(TrackerError, match=r"^failed \(the cable is out\)$"):
        deliver(run, cls(tmp_path / "store", fails_after=taken))
    append(run, 50)
    tracker = cls(tmp_path / "store")
    assert deliver(run, tracker) == 10 - taken
    check(run, tracker)


@pytest.mark.parametrize("cls", [Store, AtOnce])
def test_a_crash_sends_nothing_twice_and_loses_nothing(run, tmp_path, cls):
    pid = os.fork()
    if not pid:
        deliver(run, cls(tmp_path / "store", fails_after=5, how="die"))
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    tracker = cls(tmp_path / "store")
    assert deliver(run, tracker) == 4
    check(run, tracker)


@pytest.mark.parametrize("cut", [3, 6])
def test_records_that_a_resumed_run_writes_again_are_not_sent_again(run, tmp_path, cut):
    """A killed run is cut back to its checkpoint; the same records follow, but for their times."""
    tracker = Store(tmp_path / "store")
    deliver(run, tracker)
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:cut]))
    assert deliver(run, tracker) is None
    again = [line.replace('"train_seconds": 2.0', '"train_seconds": 2.123456') for line in lines[cut:]]
    path.write_text("".join([*lines[:cut], *again]) + '{"kind": "tr')
    assert deliver(run, tracker) is None
    path.write_text("".join([*lines[:cut], *again]))
    append(run, 50)
    assert deliver(run, tracker) == 1
    check(run, tracker)


def test_the_state_of_a_run_that_was_killed_is_interrupted(run, tmp_path):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "running"}))
    tracker = Store(tmp_path / "store")
    deliver(run, tracker)
    assert tracker.content()["ends"] == [["interrupted", 90.0]]


def test_the_runs_of_a_folder_and_the_settings_of_a_tracker(tmp_path):
    one, two = made_up_run(tmp_path / "runs/a"), made_up_run(tmp_path / "runs/b")
    assert run_folders([tmp_path / "runs", one]) == [one, two]
    tracker = tracker_of(one, "wandb", ["logger.wandb.project=mine", "logger.wandb.tags=[a,b]"])
    assert (tracker.settings["project"], list(tracker.settings["tags"])) == ("mine", ["a", "b"])
    for name, typed, message in [
        ("wandb", ["logger.wandb.projct=a"], "logger.wandb.projct: unknown key; did you mean logger.wandb.project?"),
        (
            "wandb",
            ["logger.mlflow.notes=a"],
            "sync: logger.mlflow.notes=a: only settings of the tracker can be set, as logger.wandb.KEY=VALUE",
        ),
        ("wandb", ["logger.wandb.mode=shared"], "logger.wandb.mode=shared: must be online, offline or null"),
        ("wandbb", [], "sync: --to wandbb: no such tracker; did you mean wandb?"),
        ("tensorboard", [], "sync: --to tensorboard: no such tracker; there are wandb, mlflow, trackio"),
    ]:
        with pytest.raises(UserError) as error:
            tracker_of(one, name, typed)
        assert str(error.value) == message
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no records of a run"):
        run_folders([tmp_path / "empty"])


def test_settings_of_a_run_run_no_code(tmp_path):
    """A run's folder may be a stranger's."""
    code = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(tmp_path / "made")]}}
    run = made_up_run(tmp_path / "a", config={"logger.mlflow.tags": {"x": code}})
    assert tracker_of(run, "mlflow", []).settings["tags"] == {"x": code}
    assert not (tmp_path / "made").exists()
    for number, (config, message) in enumerate(
        [
            ({"mlflow._args_": [1]}, "logger.mlflow must hold values only, no ${…} and no key such as _args_; remove"),
            ({"mlflow.notes": "${oc.env:HOME}"}, "logger.mlflow must hold values only"),
            ({"mine._target_": "a.Board"}, "--to mine: is a.Board in .*; if you trust it, give logger.mine._target_="),
            ({"mlflow._target_": "a.Board"}, "sync imports no class that a run's folder names"),
        ]
    ):
        run = made_up_run(tmp_path / str(number), config={f"logger.{key}": value for key, value in config.items()})
        with pytest.raises(UserError, match=message.replace("$", r"\$")):
            tracker_of(run, next(iter(config)).partition(".")[0], [])
    run = made_up_run(tmp_path / "b", config={"logger.mine._target_": "a.Board", "logger.mine.path": "p"})
    assert tracker_of(run, "mine", [f"logger.mine._target_={Store.__module__}.Store"]).path == "p"


def test_a_tracker_cannot_ask(run, tmp_path, monkeypatch):
    """Its question would not be seen."""
    monkeypatch.setattr(Store, "open", lambda self, page: input("key? "))
    with pytest.raises(TrackerError, match=r"^failed \(EOF when reading a line\)$"):
        deliver(run, Store(tmp_path / "store"))


def test_a_missing_package_is_named_with_how_to_get_it():
    with pytest.raises(ValueError, match=r"^no_such_package is not installed; pip install 'trainopt\[trackers\]'$"):
        Tracker.__init__(object.__new__(Store), "no_such_package", {}, 1.0)
