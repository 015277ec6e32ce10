"""The code that runs Hydra: it reads the arguments that it gets, returns a result, and leaves no state behind."""

import os
import sys
from pathlib import Path

import pytest
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode

from trainopt.runner.commands.run import SweepResult, compose_and_run
from trainopt.runner.records.job_table import read_job_table
from trainopt.runner.search.compose import register_with_hydra
from trainopt.runner.search.search import SearchResult
from trainopt.runner.sweeps.interrupt import SweepInterrupt
from trainopt.runner.sweeps.run_job import Job
from trainopt.runner.system.errors import UserError
from trainopt.runner.system.hydra_compat import HydraSession, parse_arguments

FUNCTION = ["model=function", "data=none", "duration=2steps"]
SEARCH = ["hydra/sweeper=lr_heuristic", "hydra.sweeper.exponents=[4]", "hydra.sweeper.factors=[]"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["another", "--program", "foo=1"])

    def compose(*arguments: str):
        with SweepInterrupt() as interrupt:
            return compose_and_run([*arguments], Job(["trainopt", *arguments], False, os.getpid()), interrupt)

    return compose


def test_a_run_returns_its_exit_code(run):
    assert run(*FUNCTION) == 0
    assert run(*FUNCTION, "optimizer.lr=-1") == 2


def test_a_sweep_returns_its_folder_and_composes_no_job_only_to_see_that_it_can(run, monkeypatch):
    def once_more(sweeper, batch):
        raise AssertionError(f"{len(batch)} jobs are composed once more")

    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", once_more)
    result = run("-m", *FUNCTION, "seed=0,1", "hydra.sweep.dir=sweep")
    assert (result.folder, result.is_stopped) == (Path("sweep"), False)
    assert [job.state for job in read_job_table(result.folder)] == ["done", "done"]


@pytest.mark.parametrize(
    ("typed", "mode"),
    [
        ([], RunMode.RUN),
        (["hydra.mode=RUN"], RunMode.RUN),
        (["hydra.mode=MULTIRUN", "seed=0,1"], RunMode.MULTIRUN),
        (["-m", "hydra.mode=RUN", "seed=0,1"], RunMode.MULTIRUN),
        (["--config-dir", "mine", "experiment=two", "seed=0,1"], RunMode.MULTIRUN),
    ],
)
def test_a_configuration_may_ask_for_a_sweep(tmp_path, monkeypatch, typed, mode):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/two.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    flags, _ = parse_arguments(typed)
    register_with_hydra()
    with HydraSession(flags.config_dir) as hydra:
        assert hydra.compose(flags).hydra.mode == mode


def test_a_search_returns_its_searches(run):
    result = run("-m", *FUNCTION, *SEARCH, "hydra.sweeper.over_last=1", "hydra.sweep.dir=sweep")
    assert isinstance(result.outcome, SearchResult)
    assert [search.chosen for search in result.outcome.searches] == [1e-4]
    assert run(*FUNCTION) == 0  # nothing of the sweep is left


def test_a_launcher_that_fails_returns_what_there_is(run, monkeypatch, capfd):
    def sweep(*_):
        raise RuntimeError("no worker")

    monkeypatch.setattr(HydraSession, "sweep", sweep)
    result = run("-m", *FUNCTION, "seed=0,1", "hydra.sweep.dir=sweep")
    assert result == SweepResult(Path("sweep"), None, True)
    assert "trainopt: the launcher stopped: no worker" in capfd.readouterr().err
    assert [job.state for job in read_job_table(result.folder)] == ["missing", "missing"]


def test_a_flag_of_hydra_that_cannot_work_is_named(run):
    with pytest.raises(UserError, match="--experimental-rerun: is not supported"):
        run("--experimental-rerun", "config.pickle")
