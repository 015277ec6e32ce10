"""One process writes a run; a dead one's lock is taken over, on this machine and on another."""

import itertools
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from helpers.cli import exit_code, forked, start_fork
from helpers.runs import summary
from trainopt.runner.system import lock
from trainopt.runner.system.lock import (
    Busy,
    RunLock,
    folders_being_written,
    is_being_written,
    is_dead_here,
    this_process,
)

ELSEWHERE = {"host": "node7", "pid": 1234, "started": 99, "place": "node7 another-boot pid:[1]", "since": "then"}


@pytest.fixture
def quick(monkeypatch):
    """A heartbeat every 20 ms; silence of 0.3 s is death."""
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.1)


def held_by(folder: Path, owner: dict) -> Path:
    path = folder / "lock"
    path.write_text(json.dumps(owner))
    return path


def dead_pid() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_lock_of_another_machine_that_was_silent_for_long_is_not_watched(tmp_path, monkeypatch):
    lock_file = tmp_path / "lock"
    lock_file.write_text(json.dumps({"pid": 1, "host": "far", "place": "far"}))
    monkeypatch.setattr(lock, "changing_files", lambda paths, seconds: list(paths))
    assert folders_being_written([tmp_path]) == {tmp_path}
    last = time.time() - 60
    os.utime(lock_file, (last, last))
    assert folders_being_written([tmp_path]) == set()
    assert list(tmp_path.iterdir()) == [lock_file]


def test_it_is_there_while_held_and_gone_after(tmp_path):
    with RunLock(tmp_path / "run"):
        owner = json.loads((tmp_path / "run/lock").read_text())
        assert owner["pid"] == os.getpid()
        assert folders_being_written([tmp_path / "run", tmp_path]) == {tmp_path / "run"}
        assert is_being_written(tmp_path / "run")
        with pytest.raises(Busy, match=f"is being written by process {os.getpid()} on {owner['host']} since"):
            RunLock(tmp_path / "run").__enter__()
    assert list((tmp_path / "run").iterdir()) == []
    assert folders_being_written([tmp_path / "run"]) == set()
    assert not is_being_written(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"pid": None},  # a process that has ended
        {"started": 1},  # its number belongs to another process now
    ],
)
def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path, change):
    owner = {**this_process(), **change}
    owner["pid"] = owner["pid"] or dead_pid()
    held_by(tmp_path, owner)
    began = time.monotonic()
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - began < 5


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    until = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert is_dead_here({**this_process(), "pid": pid})
    os.waitpid(pid, 0)


def test_a_silent_owner_on_another_machine_is_taken_over(tmp_path, quick, capsys):
    held_by(tmp_path, ELSEWHERE)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert "watching the lock of process 1234 on node7 for a heartbeat" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_owner_on_another_machine_that_gives_signs_is_left_alone(tmp_path, quick):
    path = held_by(tmp_path, ELSEWHERE)
    end = threading.Event()

    def beat() -> None:
        while not end.wait(0.02):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(Busy, match="process 1234 on node7 since then"):
            RunLock(tmp_path).__enter__()
        assert folders_being_written([tmp_path]) == {tmp_path}
        assert is_being_written(tmp_path)
    finally:
        end.set()
        thread.join()
    assert json.loads(path.read_text()) == ELSEWHERE
    assert folders_being_written([tmp_path]) == set()
    assert not is_being_written(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}'])
def test_a_lock_that_says_nothing_is_judged_by_its_signs(tmp_path, quick, content):
    (tmp_path / "lock").write_bytes(content)
    with RunLock(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_take_over_at_once_one_holds_it_at_a_time(tmp_path):
    """Each notes when it held the lock; no two overlap."""
    folder = tmp_path / "run"
    folder.mkdir()
    held_by(folder, {**this_process(), "pid": dead_pid()})
    children = []
    for number in range(8):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with RunLock(folder):
                    entered = time.monotonic()
                    time.sleep(0.5)
                    (tmp_path / f"held-{number}").write_text(json.dumps([entered, time.monotonic()]))
                code = 0
            except Busy:
                code = 2
            finally:
                os._exit(code)
        children.append(pid)
    codes = [exit_code(pid) for pid in children]
    assert set(codes) <= {0, 2}
    spans = sorted(json.loads(path.read_text()) for path in tmp_path.glob("held-*"))
    assert len(spans) == codes.count(0) >= 1
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    assert list(folder.iterdir()) == []


def test_whoever_lost_the_lock_stops_without_another_word(tmp_path, quick):
    folder = tmp_path / "run"
    pid = os.fork()
    if pid == 0:
        with RunLock(folder):
            time.sleep(20)
        os._exit(0)
    until = time.monotonic() + 10
    while not (folder / "lock").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    held_by(folder, ELSEWHERE)
    assert exit_code(pid) == 1
    assert json.loads((folder / "lock").read_text()) == ELSEWHERE


LONG = ("model=mlp", "duration=100000steps", "logger=none", "hydra.run.dir=run")


def test_a_second_process_is_turned_away_and_a_killed_one_taken_over(tmp_path):
    pid = start_fork(*LONG, folder=tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / "run/metrics.jsonl").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert forked(*LONG, folder=tmp_path) == 2
    assert f"run: is being written by process {pid} on" in (tmp_path / "output").read_text()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (tmp_path / "run/lock").exists()
    pid = start_fork(*LONG, folder=tmp_path)
    while json.loads((tmp_path / "run/lock").read_text() or "{}").get("pid") != pid:
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(pid, signal.SIGTERM)
    assert exit_code(pid) in (143, -15)


def test_two_that_start_at_once_get_two_folders(tmp_path):
    """And of one and the same run, one of them does it."""
    command = ("model=mlp", "duration=3steps", "logger=none")
    pids = [start_fork(*command, f"seed={seed}", folder=tmp_path) for seed in (0, 1)]
    assert [exit_code(pid) for pid in pids] == [0, 0]
    folders = sorted((tmp_path / "outputs").iterdir())
    assert [summary(folder)["seed"] for folder in folders] == [0, 1]
    pids = [start_fork(*command, "seed=2", folder=tmp_path) for _ in range(4)]
    codes = [exit_code(pid) for pid in pids]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    (folder,) = (tmp_path / "outputs").glob("*seed=2")
    assert summary(folder)["status"] == "finished"
