"""Every shipped suite: its workloads can be composed and checked."""

import pytest

from trainopt.runner.benchmark import plan
from trainopt.runner.benchmark.submissions import read_words
from trainopt.runner.benchmark.suite import find_suites, read_suite
from trainopt.runner.search.compose import Composer


@pytest.mark.slow
@pytest.mark.parametrize("name", find_suites())
def test_every_workload_is_composed_and_has_a_target(name, tmp_path, monkeypatch):
    suite = read_suite(find_suites()[name])
    assert all(workload.target is not None for workload in suite.workloads.values())
    monkeypatch.setattr(plan, "missing", lambda needs, root: [])  # data that the machine may lack
    submissions = read_words(suite.submissions).submissions[:1]
    planned = plan.BenchmarkPlan(suite, submissions, suite.quick, "external", tmp_path, [], [], Composer())
    planned.check(planned.searches)
