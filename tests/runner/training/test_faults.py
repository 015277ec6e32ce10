"""A run that is killed at any moments, and continued each time, ends as the run that nobody disturbed."""

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from hydra.utils import get_object

from helpers.cli import forked
from helpers.fixtures import probe_of, reference_run
from helpers.runs import equal, rows, summary, timeless
from trainopt.runner.config.options import CONF, Vocabulary, read
from trainopt.runner.records import checkpoint_files as store
from trainopt.runner.state.progress import Progress
from trainopt.runner.system import files

KILLS = 25
STEPS = 480  # enough for so many beginnings
FARTHEST = 30  # steps of one of them
RUN = (
    "model=mlp",
    "model.hidden=[16]",
    "model.dropout=0.2",
    "data.limit=240",
    "data.validation=0.2",
    "augmentation.flip=0.5",
    "logger=none",
    "log_every=2steps",
    "evaluate_every=1.3epochs",
    "checkpoint_every=3steps",
    "early_stopping.patience=1000",
    f"duration={STEPS}steps",
    "hydra.run.dir=.",
)
NEEDS = {
    "schedule=multistep": ["schedule.milestones=[50steps,12epochs]"],
    "schedule=range_test": ["early_stopping.patience=null"],
    "batching=dynamic": ["batching.lr_rule=sqrt"],
    "batching=growth_control": ["batching.C_growth=[0,3]", "batching.L_growth=[0.2,1]"],
    "batching=follow_reference": ["batching.reference={reference}"],
}
GROUPS = ("optimizer", "schedule", "batching")
CHOICES = [f"{group}={name}" for group in GROUPS for name in Vocabulary([CONF]).options(group)]
NUMBERS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


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


def state(folder: Path, name: str) -> dict:
    """A checkpoint, without what the lengths of times in it make different."""
    found = torch.load(folder / "checkpoints" / name, weights_only=True)
    del found["clocks"], found["record"]["metrics_bytes"]
    return timeless(found)


def check(choice: str, number: int, tmp_path: Path, kills: int = KILLS) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    needs = [need.format(reference=reference_run(tmp_path / "reference")) for need in NEEDS.get(choice, [])]
    if choice.startswith("batching="):
        target = read(CONF / f"{choice.replace('=', '/')}.yaml")["_target_"]
        needs += probe_of(get_object(target))
    else:
        needs += ["batching.size=32"]
    command = (*RUN, choice, *needs)
    began = time.monotonic()
    assert forked(*command, folder=whole) == 0
    wall = summary(whole)["wall_seconds"]
    longest = time.monotonic() - began - wall + wall / 30  # of the start, and a little of the run
    rng = random.Random(choice)
    ended = {-number, 128 + number} if number == signal.SIGTERM else {-number}
    for _ in range(kills):
        code = forked(*command, folder=parts, before=at_a_moment(rng, number, longest))
        assert code in ended, (parts / "output").read_text()
    assert forked(*command, folder=parts) == 0
    assert summary(whole)["steps"] == STEPS
    assert timeless(rows(parts)) == timeless(rows(whole))
    assert timeless(summary(parts)) == timeless(summary(whole))
    names = ("last.pt",) if "schedule=range_test" in command else ("last.pt", "best.pt")
    for name in names:
        assert equal(state(parts, name), state(whole, name))
    assert not list(parts.rglob("*.tmp"))


def test_a_run_struck_six_times(tmp_path):
    check("optimizer=adam", signal.SIGKILL, tmp_path, kills=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
def test_a_run_struck_25_times(tmp_path, name):
    check("optimizer=adam", NUMBERS[name], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("choice", CHOICES)
def test_every_optimizer_schedule_and_batching_struck_25_times(tmp_path, choice, name):
    check(choice, NUMBERS[name], tmp_path)
