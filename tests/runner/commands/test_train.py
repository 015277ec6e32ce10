"""`train`: one run from Python."""

import os
import signal
import sys

import pytest

from helpers.runs import same_weights, stop_at
from trainopt.runner import RunError, UserError, load_run, train

RUN = ["model=mlp", "model.hidden=[4]", "data.limit=40", "batching.size=10", "duration=8steps", "logger=none"]


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_trains_what_the_command_trains_and_returns_its_records(trainopt, tmp_path):
    run = train([*RUN, "run.name=a"])
    assert run.path == tmp_path / "outputs/a"
    assert run.summary["status"] == "finished"
    assert run.metrics.query("kind == 'test'").step.tolist()[-1] == 8
    assert trainopt(*RUN, "run.name=b").code == 0
    assert same_weights(tmp_path / "outputs/a", tmp_path / "outputs/b")
    assert repr(run).startswith(f"LoadedRun({run.path}, finished, loss {run.summary['final']['loss']:.4g}, top1 ")


def test_a_run_that_is_done_returns_its_records_at_once(capsys):
    first = train(RUN)
    capsys.readouterr()
    assert train(RUN).summary == first.summary
    assert "already finished" in capsys.readouterr().out


def test_a_notebook_shows_lines_of_text_once_and_the_log_has_them(monkeypatch, capsys):
    """There rich takes every console for the page, that of a file as well, and standard output for a terminal."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run = train(RUN)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert shown.count("final test top-1") == 1
    assert (run.path / "log.txt").read_text().count("final test top-1") == 1


def test_options_of_a_folder_of_ones_own(tmp_path):
    (tmp_path / "mine/optimizer").mkdir(parents=True)
    (tmp_path / "mine/optimizer/slow.yaml").write_text("_target_: torch.optim.SGD\nlr: 0.001\n")
    run = train([*RUN, "optimizer=slow"], config_dir="mine")
    assert run.config["optimizer.lr"] == 0.001


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimiser=sgd"], "optimiser: unknown key"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: must be a number >= 0"),
        (["model=resnet8", "data=none"], "data=none: the network needs data"),
        (["seed=0,1"], "seed=0,1"),
        (["hydra.mode=MULTIRUN", "seed=0,1"], "this is a sweep, not one run"),
        (["experiment=tournament"], "hydra/sweeper=tournament: is for sweeps"),
        ("model=mlp", "takes a list of overrides"),
        (["-m", "seed=0,1"], "takes a list of overrides"),
    ],
)
def test_bad_input_is_an_error_with_one_line_and_nothing_is_written(overrides, message, tmp_path, capsys):
    with pytest.raises(UserError) as error:
        train(overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().err == ""
    assert not (tmp_path / "outputs").exists()


def test_a_run_that_fails_says_where_to_look(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("trainopt.runner.training.loop.log_step", broken)
    with pytest.raises(RunError, match="log.txt"):
        train([*RUN, "log_every=1steps", "run.name=broken"])
    assert load_run("outputs/broken").summary["status"] == "failed"


def test_an_interrupt_reaches_the_caller_after_the_checkpoint(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        stop_at(patched, 3)
        with pytest.raises(KeyboardInterrupt):
            train([*RUN, "run.name=stopped"])
    assert load_run("outputs/stopped").summary["steps"] == 3
    assert train([*RUN, "run.name=stopped"]).summary["status"] == "finished"
    assert signal.getsignal(signal.SIGINT) is before
    assert os.path.exists("outputs/stopped/checkpoints/last.pt")
