"""Which trials of a search of a benchmark there are, and whether all have ended."""

import json
from dataclasses import replace

from helpers.fixtures import made_up_run
from trainopt.runner.benchmark.plan import Search
from trainopt.runner.benchmark.submissions import Submission


def test_trials_of_one_point_have_one_job_and_end_with_it(tmp_path):
    """The third trial has the point of the first, whose entry in the plan it takes over."""
    jobs = [{"folder": name, "overrides": [], "trial": number} for name, number in (("two", 1), ("one", 2))]
    (tmp_path / "sweep.json").write_text(json.dumps({"overrides": ["optimizer=sgd"], "workers": 1, "jobs": jobs}))
    for name in ("one", "two"):
        made_up_run(tmp_path / name)
    search = Search("digits", Submission("sgd", ("optimizer=sgd",)), 0, tmp_path, 3, ["optimizer=sgd"], [])
    assert search.states() == ["done", "done", "missing"]
    assert not search.is_done()
    trials = [{"runs": [name]} for name in ("one", "two", "one")]
    (tmp_path / "search.json").write_text(json.dumps({"trials": trials}))
    assert search.states() == ["done"] * 3
    assert search.is_done()
    assert [job["folder"] for job in replace(search, trials=1).jobs()] == ["one"]
    assert replace(search, trials=4).states() == ["done"] * 3 + ["missing"]
