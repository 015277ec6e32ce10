"""Aggregate measures against scipy, and bootstrap intervals."""

import numpy as np
import pytest
from scipy.stats import bootstrap, mannwhitneyu, trim_mean

from trainopt.runner.scores.aggregates import (
    bootstrap_interval,
    improvement_probability,
    interquartile_mean,
    relative_speeds,
)
from trainopt.runner.scores.profiles import benchmark_score, median_times, performance_ratios

INF = np.inf


@pytest.fixture
def times():
    times = np.random.default_rng(0).integers(1, 9, size=(3, 4, 5)).astype(float)  # with ties
    times[0, 1, 2] = times[2, 1, :3] = INF
    return times


def test_the_interquartile_mean_is_that_of_scipy(times):
    speeds = relative_speeds(times)
    expected = [trim_mean(of_submission, 0.25, axis=None) for of_submission in speeds]  # as rliable has it
    assert interquartile_mean(speeds) == pytest.approx(expected)


def test_the_probability_of_improvement_is_that_of_mann_and_whitney(times):
    values = improvement_probability(times, baseline=1)
    for submission in range(3):
        fractions = [
            mannwhitneyu(-times[submission, w], -times[1, w], alternative="greater").statistic / 25 for w in range(4)
        ]
        assert values[submission] == pytest.approx(np.mean(fractions))
    assert values[1] == 0.5


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).normal(10, 2, size=(1, 1, 30))
    (low, high), *_ = bootstrap_interval(lambda t: t.mean(axis=(-2, -1)), values, draws=20_000)
    sample = (values.ravel(),)  # random_state is called rng in new versions of SciPy, which take both
    expected = bootstrap(sample, np.mean, n_resamples=20_000, method="percentile", random_state=0).confidence_interval
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.03)  # of an interval of 1.3


def test_draws_of_submissions_and_workloads_are_independent():
    times = np.tile(np.array([1.0, 2.0]), (2, 2, 1))
    means = []
    bootstrap_interval(lambda t: means.append(t.mean(axis=-1)) or t.mean(axis=(-2, -1)), times)
    flat = means[0].reshape(len(means[0]), -1)
    assert np.corrcoef(flat.T) == pytest.approx(np.eye(4), abs=0.1)


def test_the_interval_of_a_score_holds_it(times):
    def score(values):
        return benchmark_score(performance_ratios(median_times(values)))

    low, high = bootstrap_interval(score, times).T
    assert np.all((low <= score(times)) & (score(times) <= high) & (low < high))
    assert np.array_equal(bootstrap_interval(score, times), bootstrap_interval(score, times))


def test_a_single_study_has_no_interval(times):
    assert np.isnan(bootstrap_interval(lambda t: t.mean(axis=(-2, -1)), times[..., :1])).all()
