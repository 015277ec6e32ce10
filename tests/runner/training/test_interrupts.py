"""Ctrl-C, SIGTERM and SIGHUP: the step is finished, a checkpoint written, and the way on is said."""

import errno
import itertools
import os
import signal
import time

import pytest
import torch

from helpers.cli import forked
from helpers.runs import check_same_run, rows, summary, train_run
from trainopt.data import InMemory
from trainopt.runner.state.progress import Progress

RUN = (
    "model=mlp",
    "duration=30steps",
    "evaluate_every=10steps",
    "logger=none",
    "log_every=1steps",
)
HERE = (*RUN, "hydra.run.dir=.")
SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])


def at_step(step: int, act):
    """Return what lets a process act when it has made so many steps."""

    def prepare() -> None:
        advance = Progress.advance

        def advance_and_act(self, batch):
            advance(self, batch)
            if self.step == step:
                act()

        Progress.advance = advance_and_act

    return prepare


def send(*numbers: int):
    def act() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)

    return act


@SIGNALS
def test_the_step_is_finished_and_the_way_on_is_said(tmp_path, number):
    assert forked(*HERE, folder=tmp_path, before=at_step(7, send(number))) == 128 + number
    assert summary(tmp_path)["status"] == "interrupted"
    assert summary(tmp_path)["steps"] == 7
    state = torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == 7
    said = (tmp_path / "output").read_text()
    assert "interrupted; go on from the last checkpoint with: trainopt resume ." in said
    assert "Traceback" not in said
    assert not (tmp_path / "lock").exists()


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    """The second comes before the step is over: no checkpoint of it, but a summary."""
    twice = at_step(7, send(signal.SIGINT, signal.SIGINT))
    assert forked(*HERE, folder=tmp_path, before=twice) == 130
    assert summary(tmp_path)["status"] == "interrupted"
    assert not (tmp_path / "checkpoints/last.pt").exists()
    assert "Traceback" not in (tmp_path / "output").read_text()
    assert not (tmp_path / "lock").exists()


def test_a_second_sigterm_changes_nothing(tmp_path):
    twice = at_step(7, send(signal.SIGTERM, signal.SIGTERM))
    assert forked(*HERE, folder=tmp_path, before=twice) == 143
    assert torch.load(tmp_path / "checkpoints/last.pt", weights_only=True)["progress"]["step"] == 7


@SIGNALS
def test_a_signal_on_the_way_in_has_its_own_exit_code(tmp_path, number):
    """The handler of the first signal that is handled may run before the block is entered."""

    def prepare() -> None:
        from trainopt.runner.sweeps.interrupt import SweepInterrupt

        enter = SweepInterrupt.__enter__

        def enter_and_stop(self):
            enter(self)
            send(number)()

        SweepInterrupt.__enter__ = enter_and_stop

    assert forked(*HERE, folder=tmp_path, before=prepare) == 128 + number


@SIGNALS
def test_an_error_that_a_library_makes_of_a_signal_is_none(tmp_path, number):
    """As Hydra does where a signal comes while it reads the command line."""

    def prepare() -> None:
        from trainopt.runner.system.hydra_compat import HydraSession

        def compose(self, flags):
            try:
                send(number)()
            except KeyboardInterrupt as stop:
                raise ValueError from stop

        HydraSession.compose = compose

    assert forked(*HERE, folder=tmp_path, before=prepare) == 128 + number
    assert (tmp_path / "output").read_text() == "trainopt: interrupted\n"


def test_below_nohup_a_lost_terminal_changes_nothing(tmp_path):
    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        at_step(7, send(signal.SIGHUP))()

    assert forked(*HERE, folder=tmp_path, before=prepare) == 0
    assert summary(tmp_path)["status"] == "finished"


def test_an_error_after_a_signal_is_no_failure(tmp_path):
    """As where the signal also ended a process that reads the data: the run misses it."""

    def act() -> None:
        send(signal.SIGTERM)()
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    assert forked(*HERE, folder=tmp_path, before=at_step(7, act)) == 143
    assert summary(tmp_path)["status"] == "interrupted"
    assert forked(*HERE, folder=tmp_path) == 0


@SIGNALS
@pytest.mark.parametrize(
    "evaluation", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)]
)
def test_an_evaluation_is_cut_short_and_made_up_for(trained, tmp_path, monkeypatch, number, evaluation):
    """The first (before any step), one in between, and the last."""
    whole, parts = trained(*RUN), tmp_path / "parts"
    ordered, calls = InMemory.ordered, itertools.count(1)

    def ordered_and_stop(self, batch_size):
        is_cut = next(calls) == evaluation
        for index, batch in enumerate(ordered(self, 16)):
            if is_cut and index == 3:
                os.kill(os.getpid(), number)
            assert not is_cut or index < 4, "the evaluation went on"
            yield batch

    monkeypatch.setattr(InMemory, "ordered", ordered_and_stop)
    assert train_run(parts, *RUN) == 128 + number
    state = torch.load(parts / "checkpoints/last.pt", weights_only=True)
    assert state["progress"]["step"] == 10 * (evaluation - 1)
    assert [row["step"] for row in rows(parts, "test")] == [10 * n for n in range(evaluation - 1)]
    assert train_run(parts, *RUN) == 0
    check_same_run(parts, whole)


@SIGNALS
def test_before_the_training_begins_a_signal_ends_it_at_once(tmp_path, number):
    def slow_data() -> None:
        from trainopt.runner.training import build

        def load(config, folder):
            os.kill(os.getpid(), number)
            time.sleep(30)

        build.load_data = load

    began = time.monotonic()
    folder = tmp_path / "run"
    command = (*RUN, "hydra.run.dir=run")
    assert forked(*command, folder=tmp_path, before=slow_data) == 128 + number
    assert time.monotonic() - began < 20
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.slow
def test_a_signal_after_the_last_step_leaves_a_finished_run(tmp_path):
    def signal_at_the_end() -> None:
        from trainopt.runner.training import execute

        run_training = execute.run_training

        def run_and_send(*args):
            outcome = run_training(*args)
            send(signal.SIGTERM)()
            return outcome

        execute.run_training = run_and_send

    assert forked(*HERE, folder=tmp_path, before=signal_at_the_end) == 143
    assert (summary(tmp_path)["status"], summary(tmp_path)["steps"]) == ("finished", 30)
    said = (tmp_path / "output").read_text()
    assert "interrupted; the run is finished, and the same command shows its result" in said
    assert forked(*HERE, folder=tmp_path) == 0
    assert (tmp_path / "curves.png").exists()


def test_a_signal_while_a_checkpoint_is_read_says_how_the_run_goes_on(tmp_path):
    def signal_at_the_start() -> None:
        from trainopt.runner.training import execute

        execute.resume = lambda *args: send(signal.SIGTERM)()

    assert forked(*HERE, folder=tmp_path, before=at_step(7, send(signal.SIGTERM))) == 143
    assert forked(*HERE, folder=tmp_path, before=signal_at_the_start) == 143
    said = (tmp_path / "output").read_text()
    assert said.count("interrupted; go on from the last checkpoint with: trainopt resume .") == 2
    assert "before the first step" not in said


def test_a_run_that_diverges_on_a_full_disk_has_diverged(tmp_path):
    def full_disk() -> None:
        from trainopt.runner.records.checkpoint_files import CheckpointStore

        def write(self, state):
            raise OSError(errno.ENOSPC, "No space left on device")

        CheckpointStore.write = write

    assert forked(*HERE, "optimizer.lr=1e15", folder=tmp_path, before=full_disk) == 0
    assert summary(tmp_path)["status"] == "diverged"
    assert "note: the last checkpoint cannot be written: No space left on device" in (tmp_path / "output").read_text()
