"""A made-up cluster that preempts tasks and loses nodes; `python -m faults.cluster` does it with 10,000 runs."""

import pytest

from faults.cluster import simulate


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_is_made_twice(tmp_path):
    counts = simulate(tmp_path, runs=200, slots=20, runs_per_job=2, seed=1)
    assert counts["preempted"]
    assert counts["tasks lost"]
