"""The labels of jobs in the job table."""

from trainopt.runner.records.job_table import JobStatus
from trainopt.runner.sweeps.status import job_labels


def labels(rates: list[str], **about) -> list[str]:
    return job_labels([JobStatus(rate, [f"optimizer.lr={rate}", "seed=0"], "done", **about) for rate in rates])


def test_numbers_that_a_search_drew_have_four_digits_where_these_tell_jobs_apart():
    drawn = ["0.0012345678", "3.456789e-05", "0.1"]
    assert labels(drawn, is_trial=True) == ["optimizer.lr=0.001235", "optimizer.lr=3.457e-05", "optimizer.lr=0.1"]
    assert labels(drawn) == [f"optimizer.lr={rate}" for rate in drawn]
    alike = ["0.00123456", "0.00123457"]
    assert labels(alike, is_trial=True) == [f"optimizer.lr={rate}" for rate in alike]
