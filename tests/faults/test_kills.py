"""A run that is killed at any moments, and continued each time, ends as the run that nobody disturbed."""

import random
import signal

import pytest

from faults.kills import MOMENTS, SIGNALS, STEPS, Kill, Line, all_lines, draw_kill, strike
from helpers.fixtures import image_folders, reference_run
from helpers.runs import rows, summary

LINES = all_lines()
IN_BETWEEN = [kind for kind in MOMENTS if kind not in ("summary", "summarised", "reader")]


@pytest.fixture
def line(tmp_path):
    """A function that returns a line by its name, with another duration if need be."""
    image_folders(tmp_path / "images", train=40, val=10)
    places = {"images": tmp_path / "images", "reference": reference_run(tmp_path / "reference")}

    def make(name: str, steps: int = STEPS) -> Line:
        command = LINES[name].format(**places).replace(f"duration={STEPS}steps", f"duration={steps}steps")
        return Line(name, command.split(), tmp_path / "whole")

    return make


@pytest.mark.slow
def test_a_run_struck_at_a_moment_of_each_kind(line, tmp_path):
    kills = [Kill(kind, SIGNALS[i % 3], 4) for i, kind in enumerate(IN_BETWEEN)]
    kills.append(Kill("summarised", signal.SIGKILL, 1))
    sequence = strike(line("optimizer=adam"), tmp_path / "parts", kills)
    assert sequence.problem == ""
    assert sequence.struck == len(kills)


def test_a_difference_is_a_problem(line, tmp_path, monkeypatch):
    """What the comparison is for: a run that resumes one step too late."""
    undisturbed = line("optimizer=adam", steps=8)
    _ = undisturbed.life
    summary_file = undisturbed.folder / "summary.json"
    summary_file.write_text(summary_file.read_text().replace('"steps": 8', '"steps": 9'))
    assert strike(undisturbed, tmp_path / "parts", []).problem != ""
    assert len(rows(tmp_path / "parts", "train")) == 4


@pytest.mark.slow
def test_a_run_whose_readers_are_killed(line, tmp_path):
    """It fails, as the reader does that a machine without memory ends, and goes on later.

    A reader that had handed over all its batches is missed by nobody: the run ends as if it were there.
    """
    kills = [Kill("reader", number, 3) for number in (signal.SIGKILL, signal.SIGTERM)]
    sequence = strike(line("workers, sgd"), tmp_path / "parts", kills)
    assert sequence.problem == ""
    codes = {kill.code for kill in sequence.kills}
    assert 1 in codes
    assert codes <= {0, 1}


@pytest.mark.slow
def test_a_run_struck_25_times(line, tmp_path):
    rng = random.Random(25)
    kills = [Kill(rng.choice(IN_BETWEEN), rng.choice(SIGNALS), rng.randint(1, 8)) for _ in range(25)]
    sequence = strike(line("optimizer=adam", steps=500), tmp_path / "parts", kills)
    assert sequence.problem == ""
    assert sequence.struck == 25
    assert summary(tmp_path / "parts")["steps"] == 500


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_every_optimizer_schedule_and_batching_struck_twice(line, tmp_path, name):
    rng, undisturbed = random.Random(name), line(name)
    sequence = strike(undisturbed, tmp_path / "parts", [draw_kill(rng, undisturbed) for _ in range(2)])
    assert sequence.problem == ""
