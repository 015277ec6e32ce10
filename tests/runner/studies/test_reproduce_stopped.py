"""`trainopt reproduce` that is killed or told to stop, and its worker processes."""

import os
import signal
import time

import pytest

from helpers.cli import exit_code, forked, others_in, start_fork
from helpers.runs import rows, same_weights, summary, timeless
from helpers.studies import OURS, states, times

pytestmark = pytest.mark.usefixtures("no_report", "no_data")

# An optimizer of a user's that takes its time.
THEIRS = """
import time, torch

class Slow(torch.optim.SGD):
    def step(self, closure):
        time.sleep(0.03)
        return super().step(closure)
"""
SLOW = ["model=function", "data=none", "logger=none", "optimizer._target_=their_slow.Slow"]
OFTEN = ["duration=60steps", "checkpoint_every=20steps", "log_every=1steps", "evaluate_every=60steps"]
LONG = {
    "first": {"typed": {"smoke": [*SLOW, "duration=2steps"]}},
    "long": {"after": ["first"], "typed": {"smoke": [*SLOW, *OFTEN, "seed=0,1"]}},
}


@pytest.fixture
def long_study(study, tmp_path, monkeypatch):
    """A study of runs that are not over at once."""
    (tmp_path / "their_slow.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))
    study(sweeps=LONG)


def wait_for(folder, runs, lines):
    """Wait until so many runs of the long sweep have begun, and each has so many rows."""
    until = time.monotonic() + 120
    lengths = [0]
    while len(lengths) < runs or min(lengths) < lines:
        assert time.monotonic() < until
        time.sleep(0.02)
        lengths = [len(p.read_bytes().splitlines()) for p in folder.glob("long/*/metrics.jsonl")]


def kill_session(number):
    """Kill every process of a session."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == number:
                os.kill(int(name), signal.SIGKILL)
        except ProcessLookupError:
            pass


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="finds processes below /proc")
def test_killed_in_the_middle_and_run_again_it_is_as_if_it_had_not_been(long_study, tmp_path):
    command = ("reproduce", "tiny", *OURS)
    killed = tmp_path / "outputs/studies/tiny/smoke/sweeps"
    pid = start_fork(*command, folder=tmp_path, before=os.setsid)
    wait_for(killed, runs=2, lines=30)
    kill_session(pid)
    assert exit_code(pid) == -signal.SIGKILL
    ended = [p.parent for p in killed.glob("*/*/summary.json")]
    whole = [folder for folder in ended if summary(folder)["status"] == "finished"]
    assert len(whole) == 2
    before = {p: t for folder in whole for p, t in times(folder).items()}
    assert forked(*command, folder=tmp_path) == 0
    assert states(tmp_path) == {"first": ["done", None], "long": ["done", None]}
    assert {p: t for folder in whole for p, t in times(folder).items()} == before

    (resumed,) = killed.glob("long/*seed=1")
    assert resumed not in whole
    assert forked(*SLOW, *OFTEN, "seed=1", "hydra.run.dir=undisturbed", folder=tmp_path) == 0
    assert timeless(rows(resumed)) == timeless(rows(tmp_path / "undisturbed"))
    assert same_weights(resumed, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_told_to_stop_it_says_how_to_go_on(long_study, tmp_path, number):
    command = ("reproduce", "tiny", *OURS)
    pid = start_fork(*command, folder=tmp_path)
    wait_for(tmp_path / "outputs/studies/tiny/smoke/sweeps", runs=1, lines=30)
    os.kill(pid, number)
    assert exit_code(pid) == 128 + number
    told = (tmp_path / "output").read_text()
    assert "1 interrupted" in told
    assert "the same command continues it: trainopt reproduce tiny --config-dir mine --launcher basic" in told
    assert not (tmp_path / "outputs/studies/tiny/smoke/states.json").exists()
    assert forked(*command, folder=tmp_path) == 0
    assert states(tmp_path)["long"] == ["done", None]


@pytest.mark.slow
def test_by_default_all_cores_are_used(trainopt, study, tmp_path):
    study()
    result = trainopt("reproduce", "tiny", "--config-dir", "mine", "hydra.launcher.n_jobs=2")
    first, second = (line for line in result.out.splitlines() if line.startswith("tiny, "))
    assert first.endswith(" hydra/launcher=basic")  # one job, for which no workers are started
    assert second.endswith(" hydra/launcher=joblib hydra.launcher.n_jobs=2")
    assert states(tmp_path)["second"] == ["done", None]
    assert "leaked" not in result.err
    until = time.monotonic() + 30
    while others_in(tmp_path):  # no worker is left
        assert time.monotonic() < until
