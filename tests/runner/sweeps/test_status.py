"""The labels of jobs in the job table, and what a sweep ends with."""

import pytest

from trainopt.runner.records.job_table import JobStatus, write_plan
from trainopt.runner.sweeps.status import job_labels, show_end


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
    assert ("the same command continues it: trainopt -m seed=1,2\n" in capsys.readouterr().out) == is_stopped
