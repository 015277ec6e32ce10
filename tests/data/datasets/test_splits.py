"""Splits and bootstrap samples: their sizes, class frequencies and distributions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainopt.data import bootstrap, class_balanced, split


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.data())
def test_a_balanced_choice_has_the_class_frequencies(labels, data):
    labels = np.array(labels)
    count = data.draw(st.integers(0, len(labels)))
    chosen = class_balanced(labels, count)
    assert len(set(chosen.tolist())) == count
    assert sorted(chosen) == chosen.tolist()
    for label in np.unique(labels):
        expected = count * np.mean(labels == label)
        assert abs(np.sum(labels[chosen] == label) - expected) <= 1 + len(np.unique(labels)) / 2


def test_the_validation_set_is_apart_and_the_same_under_a_limit():
    labels = np.repeat(np.arange(10), 20)
    train, validation = split(labels, 0.1, None)
    assert (len(train), len(validation)) == (180, 20)
    assert not set(train) & set(validation)
    assert np.bincount(labels[validation]).tolist() == [2] * 10
    few, few_validation = split(labels, 0.1, 50)
    assert set(few) <= set(train)
    assert len(few) == 50
    assert few_validation.tolist() == validation.tolist()


def test_a_bootstrap_sample_holds_the_expected_fraction_of_the_samples():
    """Each is left out with probability (1 - 1/n)^n; the standard deviation of the fraction is 0.001."""
    count = 100_000
    fractions = [len(np.unique(bootstrap(count, seed))) / count for seed in range(5)]
    expected = 1 - (1 - 1 / count) ** count
    assert expected == pytest.approx(1 - 1 / math.e, abs=1e-5)
    assert fractions == pytest.approx([expected] * 5, abs=0.005)
    assert len(set(fractions)) == 5


def test_the_counts_of_a_bootstrap_sample_are_poisson_distributed():
    times = np.bincount(np.bincount(bootstrap(100_000, 0), minlength=100_000)) / 100_000
    assert times[:5] == pytest.approx([math.exp(-1) / math.factorial(k) for k in range(5)], abs=0.005)


def test_a_bootstrap_sample_is_a_function_of_the_seed():
    assert np.array_equal(bootstrap(1000, 7), bootstrap(1000, 7))
    assert not np.array_equal(bootstrap(1000, 7), bootstrap(1000, 8))
    assert bootstrap(1000, 7).max() < 1000
