"""The labels of jobs in the job table, and what a sweep ends with."""

import os
import signal
import subprocess
import time

import pytest

from trainopt.runner.cluster.submissions import Submission
from trainopt.runner.records.job_table import OPEN_SEARCH, JobStatus, write_plan
from trainopt.runner.search.lr_heuristic import LRHeuristicSweeper
from trainopt.runner.search.search import SearchResult
from trainopt.runner.sweeps.status import job_labels, show_end
from trainopt.runner.sweeps.sweeper import SearchSweeper
from trainopt.runner.system.files import read_json, write_json
from trainopt.runner.system.hydra_compat import HydraSession
from trainopt.runner.system.lock import this_process


def labels(rates: list[str], **about) -> list[str]:
    return job_labels([JobStatus(rate, [f"optimizer.lr={rate}", "seed=0"], "done", **about) for rate in rates])


def test_numbers_that_a_search_drew_have_four_digits_where_these_tell_jobs_apart():
    drawn = ["0.0012345678", "3.456789e-05", "0.1"]
    assert labels(drawn, is_trial=True) == ["optimizer.lr=0.001235", "optimizer.lr=3.457e-05", "optimizer.lr=0.1"]
    assert labels(drawn) == [f"optimizer.lr={rate}" for rate in drawn]
    alike = ["0.00123456", "0.00123457"]
    assert labels(alike, is_trial=True) == [f"optimizer.lr={rate}" for rate in alike]


@pytest.mark.parametrize("is_stopped", [True, False])
def test_a_search_that_is_stopped_between_two_trials_says_how_it_goes_on(tmp_path, capsys, is_stopped):
    write_plan(tmp_path, [], [], 1)  # no job is open: those of the plan are done, and the next are not chosen yet
    show_end(tmp_path, ["trainopt", "-m", "seed=1,2"], is_stopped)
    out = capsys.readouterr().out
    assert ("the same command continues it: trainopt -m seed=1,2\n" in out) == is_stopped
    assert out.startswith("no job has begun\n"), "and no table without rows"


def test_an_error_that_ctrl_c_makes_in_a_library_is_no_reason(trainopt, monkeypatch):
    def stop(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise RuntimeError from None  # as of a lock that was being released

    monkeypatch.setattr(HydraSession, "sweep", stop)
    result = trainopt("-m", "hydra/sweeper=tournament", "optimizer=sgd,adam", "model=mlp")
    assert result.code == 130
    assert result.err == ""
    assert "10 jobs: 10 missing\nthe same command continues it: " in result.out


@pytest.mark.slow
def test_a_search_that_has_not_ended_says_so_and_how_it_goes_on(trainopt, tmp_path, monkeypatch):
    monkeypatch.setattr(SearchSweeper, "run_jobs", lambda *_: False)  # as where it is stopped between two trials
    command = ("-m", "hydra/sweeper=lr_heuristic", "model=mlp", "hydra.sweep.dir=sweep")
    trainopt(*command)
    sweep = tmp_path / "sweep"
    write_plan(sweep, [], [], 1)
    assert "has not ended" not in trainopt("status", "sweep").out, "its process lives"
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_json(sweep / OPEN_SEARCH, {**read_json(sweep / OPEN_SEARCH), **this_process(), "pid": ended.pid})
    line = "the search has not ended: trials are missing; the same command continues it: trainopt " + " ".join(command)
    make_job(sweep / "other", {"status": "finished"})
    for folder, said in (("sweep", f"\n{line}\n"), (".", f"\nsweep: {line}\n")):
        write_plan(sweep, [], [{"folder": name, "overrides": [name]} for name in ("a", "b")], 1)
        for name in ("a", "b"):
            make_job(sweep / name, {"status": "finished"})
        assert said in trainopt("status", folder).out
    make_job(sweep / "a", {"status": "interrupted"})
    Submission("s.1", [], [[]]).write(sweep)
    assert "trials are missing; trainopt submit with the same arguments" in trainopt("status", "sweep").out
    (sweep / "report.html").touch()
    assert "result:" not in trainopt("status", "sweep").out
    monkeypatch.setattr(LRHeuristicSweeper, "find_best", lambda _: SearchResult([]))
    trainopt(*command)
    assert not (sweep / OPEN_SEARCH).exists()
    write_plan(sweep, [], [], 1)
    (sweep / "cluster/s.1.json").unlink()
    out = trainopt("status", "sweep").out
    assert out.endswith("\nresult: sweep/report.html\n"), out


def make_job(folder, summary):
    folder.mkdir(exist_ok=True)
    write_json(folder / "summary.json", summary)
