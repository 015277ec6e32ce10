"""`trainopt evaluate RUN --follow`: the rows of every checkpoint, once, beside a run that does not notice."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from helpers.cli import exit_code, forked, start_fork
from helpers.runs import rows, same_weights, timeless, train_run
from trainopt.models import DamagedFile
from trainopt.runner import load_run
from trainopt.runner.analysis import follow
from trainopt.runner.config.durations import Duration
from trainopt.runner.state.progress import Agenda, Progress

STEPS = [10, 20, 30, 40]
RUN = (
    "model=mlp",
    "data.validation=0.2",
    "duration=40steps",
    "evaluate_every=10steps",
    "checkpoint_every=10steps",
    "keep_checkpoints.last=9",
    "logger=none",
    "hydra.run.dir=run",
)
FOLLOW = ("evaluate", "run", "--follow")


def quick() -> None:
    """Let a follower look often."""
    follow.CHECKPOINT_POLL_SECONDS = 0.02


def slow(step: int = 0, act=lambda: None):
    """Return what makes a run's steps take 20 ms, and lets it act after so many."""

    def prepare() -> None:
        advance = Progress.advance

        def advance_slowly(self, batch):
            advance(self, batch)
            time.sleep(0.02)
            if self.step == step:
                act()

        Progress.advance = advance_slowly

    return prepare


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def evaluations(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def without_files(found: list[dict]) -> list[dict]:
    return timeless([{key: value for key, value in row.items() if key != "checkpoint"} for row in found])


def own(folder: Path) -> list[dict]:
    """The rows of the run's own evaluations at the steps of its checkpoints, but for times."""
    return timeless([row for row in rows(folder) if row["kind"] != "train" and row["step"] in STEPS])


@pytest.fixture(scope="module")
def ran_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ran") / "run"
    assert train_run(folder, *RUN) == 0
    return folder


@pytest.fixture
def ran(ran_once, tmp_path):
    """The folder of a finished run, `run` in the test's own."""
    return shutil.copytree(ran_once, tmp_path / "run")


def test_the_rows_are_those_of_the_run_which_does_not_notice(tmp_path):
    """From before it has a run.yaml until it is finished; all but the files' names is the same, bit for bit."""
    run = start_fork(*RUN, folder=tmp_path, before=slow())
    until((tmp_path / "run/lock").exists)
    follower = start_fork(*FOLLOW, folder=tmp_path, before=quick)
    assert (exit_code(run), exit_code(follower)) == (0, 0)
    folder = tmp_path / "run"
    found = evaluations(folder)
    assert without_files(found) == own(folder)
    assert [row["kind"] for row in found] == ["validation", "test"] * 4
    assert {row["checkpoint"] for row in found} <= {"last.pt", *(f"step-{step:08d}.pt" for step in STEPS)}
    said = (tmp_path / "output").read_text()
    best = max(own(folder)[::2], key=lambda row: row["top1"])
    assert re.search(rf"best top-1 \(validation\) +{best['top1']:.2f} % +{best['step']} ", said)
    assert "run: the run finished" in said
    assert "gone before" not in said
    assert not list(folder.glob("*lock*"))
    assert forked(*RUN[:-1], "hydra.run.dir=alone", folder=tmp_path) == 0
    assert timeless(rows(folder)) == timeless(rows(tmp_path / "alone"))
    assert same_weights(folder, tmp_path / "alone")


@pytest.mark.slow
def test_a_killed_run_ends_it_and_steps_that_are_done_again_get_no_second_row(tmp_path):
    run = start_fork(*RUN, folder=tmp_path, before=slow(25, kill))
    until((tmp_path / "run/run.yaml").exists)
    follower = start_fork(*FOLLOW, folder=tmp_path, before=quick)
    assert (exit_code(run), exit_code(follower)) == (-signal.SIGKILL, 0)
    assert "run: the run's process is gone; go on" in (tmp_path / "output").read_text()
    before = (tmp_path / "run/evaluations.jsonl").read_bytes()
    assert [row["step"] for row in evaluations(tmp_path / "run")[::2]] == [10, 20]
    os.replace(tmp_path / "run/checkpoints/step-00000010.pt", tmp_path / "run/checkpoints/last.pt")
    (tmp_path / "run/checkpoints/best.pt").unlink()
    run = start_fork("resume", "run", folder=tmp_path, before=slow())
    until(lambda: "continuing from step 10" in (tmp_path / "output").read_text())
    follower = start_fork(*FOLLOW, folder=tmp_path, before=quick)
    assert (exit_code(run), exit_code(follower)) == (0, 0)
    assert (tmp_path / "run/evaluations.jsonl").read_bytes().startswith(before)
    assert without_files(evaluations(tmp_path / "run")) == own(tmp_path / "run")


@pytest.mark.parametrize("which", ["last", "best"])
def test_of_a_finished_run_it_evaluates_what_is_there_and_once(trainopt, ran, which):
    arguments = (*FOLLOW, "--checkpoint", which)
    assert trainopt(*arguments).code == 0
    found = evaluations(ran)
    best = max(own(ran)[::2], key=lambda row: row["top1"])["step"]
    assert [row["step"] for row in found[::2]] == (STEPS if which == "last" else [best])
    assert without_files(found) == [row for row in own(ran) if which == "last" or row["step"] == best]
    with open(ran / "evaluations.jsonl", "a") as file:
        file.write('{"kind": "te')  # as of a follower that was killed
    again = trainopt(*arguments)
    assert again.code == 0
    assert "best top-1 (validation)" in again.out
    assert evaluations(ran) == found


@pytest.mark.parametrize(
    ("arguments", "before", "said"),
    [
        (("optimizer.lr=1e30", "checkpoint_every=1steps"), lambda: None, "the run diverged"),
        ((), slow(15, lambda: 1 / 0), "the run failed: ZeroDivisionError: division by zero"),
        ((), slow(15, lambda: os.kill(os.getpid(), signal.SIGTERM)), "the run was interrupted"),
    ],
)
def test_it_says_how_the_run_ended(trainopt, tmp_path, arguments, before, said):
    forked(*RUN, *arguments, folder=tmp_path, before=before)
    result = trainopt(*FOLLOW)
    assert result.code == 0
    assert f"run: {said}" in result.out
    assert len(evaluations(tmp_path / "run")) > 0


def test_a_run_that_failed_before_its_first_checkpoint_leaves_nothing_to_evaluate(trainopt, tmp_path):
    forked(*RUN, "evaluate_every=1e9epochs", folder=tmp_path, before=slow(5, lambda: 1 / 0))
    (tmp_path / "run/checkpoints/best.pt").unlink()
    result = trainopt(*FOLLOW)
    assert result.code == 1
    assert "there was no checkpoint to evaluate" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_run_goes_on(tmp_path, number):
    """And as long as it is there, a second one is turned away."""
    run = start_fork(*RUN, "duration=1000steps", folder=tmp_path, before=slow())
    folder = tmp_path / "run"
    until((folder / "run.yaml").exists)
    follower = start_fork(*FOLLOW, folder=tmp_path, before=quick)
    until(lambda: (folder / "evaluations.jsonl").exists() and len(evaluations(folder)) >= 4)
    assert forked(*FOLLOW, folder=tmp_path) == 2
    os.kill(follower, number)
    assert exit_code(follower) == 128 + number
    assert os.waitpid(run, os.WNOHANG) == (0, 0)
    os.kill(run, signal.SIGTERM)
    assert exit_code(run) == 143
    said = (tmp_path / "output").read_text()
    assert f"trainopt: run: is being followed by process {follower} on" in said
    assert "stopped; the same command continues it" in said
    assert "Traceback" not in said
    assert not list(folder.glob("*lock*"))


def test_a_damaged_checkpoint_is_passed_over(trainopt, ran):
    path = ran / "checkpoints/step-00000020.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = trainopt(*FOLLOW)
    assert result.code == 0
    assert result.out.count("note: ") == 2
    assert "step-00000020.pt: cannot be read" in result.out
    assert "note: 1 of the checkpoints were gone" in result.out
    assert [row["step"] for row in evaluations(ran)[::2]] == [10, 30, 40]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_anew(trainopt, ran, monkeypatch):
    """As on a network's file system, where the old file can then no longer be read."""
    read, last = follow.read_checkpoint, ran / "checkpoints/last.pt"

    def replaced_first(path):
        if path == Path("run/checkpoints/last.pt") and not (ran / "older").exists():
            last.rename(ran / "older")
            shutil.copy(ran / "older", last)
            raise DamagedFile("run/checkpoints/last.pt: cannot be read (Stale file handle)")
        return read(path)

    monkeypatch.setattr(follow, "read_checkpoint", replaced_first)
    result = trainopt(*FOLLOW)
    assert result.code == 0
    assert "cannot be read" not in result.out
    assert without_files(evaluations(ran)) == own(ran)


def test_a_checkpoint_that_is_removed_while_it_is_read_is_missed(trainopt, ran, monkeypatch):
    read = follow.read_checkpoint

    def removed_first(path):
        if path.name in ("step-00000010.pt", "step-00000030.pt"):
            path.unlink()
        return read(path)

    monkeypatch.setattr(follow, "read_checkpoint", removed_first)
    result = trainopt(*FOLLOW)
    assert result.code == 0
    assert "cannot be read" not in result.out
    assert "note: 2 of the checkpoints were gone before they could be read; keep_checkpoints.last=N" in result.out
    assert [row["step"] for row in evaluations(ran)[::2]] == [20, 40]


@pytest.mark.parametrize("every", ["3steps", "0.5epochs", "1.3epochs", "0.01epochs", "2epochs"])
@pytest.mark.parametrize("read", [1, 2, 5])
def test_what_was_missed_is_counted(every, read):
    """Against the loop's own agenda: 1000 images in batches of 70."""
    progress = Progress(epoch_size=1000)
    agenda, steps, found = Agenda(progress, checkpoint=every), 0, []
    for step in range(1, 301):
        epoch, batch = divmod(step, 15)  # the last of an epoch is smaller
        progress.step, progress.epoch, progress.offset = step, epoch, 70 * batch
        progress.samples_passed = 1000 * epoch + 70 * batch
        if agenda.due():
            steps += 1
            if steps % read == 0:
                found.append({"step": step, "epoch": progress.epochs})
    there = steps // read * read  # up to the last that was read
    assert follow.count_missed(found, Duration.parse(every)) == there - there // read


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "--follow"), "nowhere: no such run or checkpoint"),
        ((".", "--follow"), ".: is no run's folder (there is no run.yaml in it)"),
        (("run", "--follow", "--device", "tpu"), "device=tpu: must be auto, cpu, cuda or cuda:N"),
        (("run", "--device", "tpu"), "device=tpu: must be auto, cpu, cuda or cuda:N"),
        (
            ("run", "--follow", "--checkpoint", "run/checkpoints/last.pt"),
            "--checkpoint run/checkpoints/last.pt: is one checkpoint; --follow takes best or last",
        ),
    ],
)
def test_bad_input_is_told_in_one_line(trainopt, ran, arguments, said):
    before = {path.name for path in ran.iterdir()}
    result = trainopt("evaluate", *arguments)
    assert (result.code, result.err) == (2, f"trainopt: {said}\n")
    assert {path.name for path in ran.iterdir()} == before


def test_damaged_rows_and_a_full_disk_are_told_in_one_line(trainopt, ran, monkeypatch):
    (ran / "evaluations.jsonl").write_text("{\n")
    result = trainopt(*FOLLOW)
    said = "run/evaluations.jsonl: is damaged; remove it to evaluate anew"
    assert (result.code, result.err) == (2, f"trainopt: {said}\n")
    (ran / "evaluations.jsonl").unlink()

    def full(file, text):
        raise OSError(28, "No space left on device", str(Path("run/evaluations.jsonl")))

    monkeypatch.setattr(follow, "append_whole", full)
    result = trainopt(*FOLLOW)
    assert result.code == 2
    assert result.err.startswith("trainopt: run/evaluations.jsonl: No space left on device;")


def test_on_a_cpu_a_run_in_tf32_is_evaluated_in_float32(trainopt, ran):
    config = (ran / "run.yaml").read_text()
    (ran / "run.yaml").write_text(config.replace("precision: float32", "precision: tf32"))
    result = trainopt(*FOLLOW, "--device", "cpu")
    assert result.code == 0
    assert "note: on a CPU, precision=tf32 is evaluated in float32" in result.out
    assert without_files(evaluations(ran)) == own(ran)


def test_a_run_may_leave_all_evaluations_but_the_first_and_the_last_to_it(trainopt, tmp_path):
    trainopt(*RUN, "evaluate_every=1e9epochs")
    trainopt(*FOLLOW)
    assert [row["step"] for row in rows(tmp_path / "run", "test")] == [0, 40]
    loaded = load_run(tmp_path / "run")
    tests = loaded.evaluations[loaded.evaluations["kind"] == "test"]
    assert list(tests["step"]) == STEPS
    assert tests["loss"].iloc[-1] == loaded.summary["final"]["loss"]


def test_without_a_follower_the_frame_of_evaluations_is_empty(ran):
    assert load_run(ran).evaluations.empty


def test_a_test_function_can_be_followed(trainopt, tmp_path):
    arguments = ("model=function", "model.function=beale", "data=none", "duration=30steps", "optimizer.lr=0.001")
    trainopt(*arguments, "checkpoint_every=10steps", "evaluate_every=10steps", "hydra.run.dir=run")
    result = trainopt(*FOLLOW)
    assert result.code == 0
    lowest = rows(tmp_path / "run", "test")[-1]["loss"]
    assert f"lowest loss (test)  {lowest:.6g}" in result.out
    assert "top-1" not in result.out
