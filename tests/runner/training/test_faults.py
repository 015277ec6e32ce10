"""A run that is killed at any moments, and continued each time, ends as the run that nobody disturbed."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from helpers.cli import forked
from helpers.fixtures import lines_of, reference_run
from helpers.runs import check_same_run, summary
from trainopt.runner.records import checkpoint_files as store
from trainopt.runner.state.progress import Progress
from trainopt.runner.system import files

STEPS = 20  # of the whole run, for each kill
FARTHEST = 30  # steps of one of the parts
RUN = (
    "model=mlp model.hidden=[16] model.dropout=0.2 data.limit=240 data.validation=0.2 augmentation.flip=0.5"
    " logger=none log_every=2steps evaluate_every=1.3epochs checkpoint_every=3steps hydra.run.dir=."
)
LINES = lines_of("optimizer", "schedule", "batching")


def at_a_moment(rng: random.Random, number: int, longest: float):
    """Return what, called in a process, lets the signal come to it at a moment that is drawn.

    After some of its steps or of what it does to files; or at any time up to `longest` seconds, on a fast machine
    after `FARTHEST` steps instead.
    """
    kind = rng.choice(["time", "step", "half written", "flush", "rename", "renamed"])
    left = FARTHEST if kind == "time" else rng.randint(1, 12 if kind == "step" else 8)
    seconds = rng.uniform(0, longest)

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), number)

    def before(function):
        def wrapped(*arguments, **more):
            strike()
            return function(*arguments, **more)

        return wrapped

    def after(function):
        def wrapped(*arguments, **more):
            result = function(*arguments, **more)
            strike()
            return result

        return wrapped

    def halved(function):
        def wrapped(path, content):
            path.with_name(path.name + ".tmp").write_bytes(bytes(content)[: len(content) // 2])
            strike()
            return function(path, content)

        return wrapped

    def prepare() -> None:
        if kind == "time":
            threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
        if kind in ("time", "step"):
            Progress.advance = before(Progress.advance)
        elif kind == "half written":
            for module in (files, store):
                module.write_temporary = halved(module.write_temporary)
        elif kind == "flush":
            os.fsync = before(os.fsync)
        else:
            os.replace = (before if kind == "rename" else after)(os.replace)

    return prepare


def check(line: str, number: int, tmp_path: Path, kills: int) -> None:
    """Compares a run with one that a signal ends so often."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    size = "" if "batching=" in line else "batching.size=32"
    patience = "" if "schedule=range_test" in line else "early_stopping.patience=1000"
    rng = random.Random(line)
    line = line.format(reference=reference_run(tmp_path / "reference"))
    command = f"{RUN} duration={STEPS * kills}steps {size} {patience} {line}".split()
    began = time.monotonic()
    assert forked(*command, folder=whole) == 0
    wall = summary(whole)["wall_seconds"]
    longest = time.monotonic() - began - wall + wall / 30  # of the start, and a little of the run
    ended = {-number, 128 + number} if number == signal.SIGTERM else {-number}
    for _ in range(kills):
        code = forked(*command, folder=parts, before=at_a_moment(rng, number, longest))
        assert code in ended, (parts / "output").read_text()
    assert forked(*command, folder=parts) == 0
    assert summary(whole)["steps"] == STEPS * kills
    check_same_run(parts, whole)
    assert not list(parts.rglob("*.tmp"))


def test_a_run_struck_six_times(tmp_path):
    check("optimizer=adam", signal.SIGKILL, tmp_path, kills=6)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_struck_25_times(tmp_path, number):
    check("optimizer=adam", number, tmp_path, kills=25)


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_every_optimizer_schedule_and_batching_struck_ten_times(tmp_path, line):
    check(line, signal.SIGKILL, tmp_path, kills=10)
