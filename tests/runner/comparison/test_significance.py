"""Statistics against scipy and closed forms, and how often the corrected test errs."""

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from trainopt.runner.comparison.metrics import value_bounds
from trainopt.runner.comparison.significance import (
    LEVEL,
    MIN_SEEDS,
    compare_with_baseline,
    effect_interval,
    estimate,
    hedges_g,
    holm,
)


def by_seed(values) -> dict[int, float]:
    return dict(enumerate(map(float, values)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_an_estimate_is_scipys(rng):
    values = list(rng.normal(90, 2, 7))
    found = estimate(values)
    low, high = stats.t.interval(0.95, 6, np.mean(values), stats.sem(values))
    assert (found.mean, found.std, found.n) == (np.mean(values), np.std(values, ddof=1), 7)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_an_interval_ends_where_values_do():
    found = estimate([99.0, 99.9, 100.0], (0.0, 100.0))
    assert (found.high, found.low) == (100.0, pytest.approx(estimate([99.0, 99.9, 100.0]).low))
    assert estimate([0.1, 0.0, 0.9], (0.0, 100.0)).low == 0
    assert value_bounds("final top-1 (%)", ["mse"]) == (0.0, 100.0)
    assert value_bounds("training time (s)", ["value"])[0] == value_bounds("final loss", ["cross_entropy"])[0] == 0
    assert value_bounds("final loss", ["cross_entropy", "value"])[0] == -math.inf


def test_one_value_has_no_spread_and_none_no_mean():
    one, none = estimate([3.0]), estimate([])
    assert (one.mean, one.n) == (3.0, 1)
    assert math.isnan(one.std)
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.mean)


def test_equal_values_have_no_spread():
    value = 98.6
    assert np.std([value] * 3, ddof=1) > 0  # what rounding leaves
    found = estimate([value] * 3)
    assert (found.std, found.low, found.high) == (0, found.mean, found.mean)


def test_equal_seeds_are_paired(rng):
    a, b = rng.normal(1, 1, 6), rng.normal(0, 1, 6)
    shuffled = {seed: float(b[seed]) for seed in (3, 1, 0, 5, 4, 2)}
    found = compare_with_baseline(by_seed(a), shuffled)
    assert found.kind == "paired"
    assert found.p == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-12)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))


@pytest.mark.parametrize("seeds", [range(3, 9), range(4)])
def test_unequal_seeds_are_compared_by_welch(rng, seeds):
    a, b = rng.normal(1, 1, len(seeds)), rng.normal(0, 3, 6)
    found = compare_with_baseline(dict(zip(seeds, map(float, a), strict=True)), by_seed(b))
    assert found.kind == "Welch"
    assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue, rel=1e-12)


def test_with_too_few_seeds_nothing_is_said():
    for n in range(1, MIN_SEEDS):
        found = compare_with_baseline(by_seed([1.0] * n), by_seed([2.0, 3.0, 4.0]))
        assert found.kind == "fewer than 3 seeds"
        assert not found.has_p_value
        assert not found.is_significant


def test_ties_are_no_difference_and_no_spread_no_proof():
    tied = compare_with_baseline(by_seed([90, 90, 91]), by_seed([90, 90, 91]))
    assert (tied.p, tied.difference) == (1.0, 0.0)
    constant = compare_with_baseline(by_seed([91, 91, 92]), by_seed([90, 90, 91]))
    assert constant.kind == "the same difference for every seed"
    assert not constant.has_p_value
    flat = compare_with_baseline({5: 91.0, 6: 91.0, 7: 91.0}, by_seed([90, 90, 90]))
    assert flat.kind == "no spread over the seeds"


def test_a_figure_that_is_not_finite_is_no_evidence():
    found = compare_with_baseline(by_seed([1.0, math.nan, 2.0]), by_seed([1.0, 2.0, 3.0]))
    assert found.kind == "a value is not finite"
    assert not found.has_p_value


def test_hedges_g_by_hand():
    a, b = [2.0, 4.0, 6.0], [1.0, 2.0, 3.0]  # means 4 and 2, variances 4 and 1
    assert hedges_g(a, b) == pytest.approx(2 / math.sqrt(2.5) * (1 - 3 / 15))
    assert hedges_g(a, b) == -hedges_g(b, a)


@pytest.mark.parametrize(("t", "freedom"), [(0.0, 3), (2.5, 2), (-6.0, 4.3), (40.0, 9)])
def test_the_interval_of_an_effect_is_that_of_the_noncentral_t_distribution(t, freedom):
    def probability(noncentrality):  # of a smaller t: of a normal over a chi variable, by adaptive quadrature
        def density(s):
            return special.ndtr(t * s - noncentrality) * stats.chi.pdf(s * freedom**0.5, freedom) * freedom**0.5

        middle = min(max(abs(noncentrality / t), 1e-3), 8) if t else 0.5
        return integrate.quad(density, 0, 12, points=sorted({middle, 1.0}), limit=500)[0]

    low, high = effect_interval(t, freedom, 2.0)
    assert probability(low / 2) == pytest.approx(0.975, abs=1e-4)
    assert probability(high / 2) == pytest.approx(0.025, abs=1e-4)


def test_the_interval_of_an_effect_excludes_0_where_the_test_does(rng):
    for _ in range(30):
        a, b = rng.normal(1, 1, 5), rng.normal(0, 2, 5)
        for other in (by_seed(b), dict(zip(range(7, 12), map(float, b), strict=True))):
            found = compare_with_baseline(by_seed(a), other)
            assert (found.effect_low > 0 or found.effect_high < 0) == (found.p < 0.05)
            assert found.effect_low < found.effect < found.effect_high


@pytest.mark.slow
def test_95_of_100_intervals_of_an_effect_hold_the_true_one(rng):
    """Five seeds of correlation 0.6, true effect 1."""
    draws = rng.multivariate_normal([1, 0], [[1, 0.6], [0.6, 1]], (400, 5))
    verdicts = [compare_with_baseline(by_seed(a), by_seed(b)) for a, b in draws.transpose(0, 2, 1)]
    assert 0.92 < np.mean([v.effect_low < 1 < v.effect_high for v in verdicts]) < 0.98


def test_holm_by_hand():
    # sorted 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.5 x 1, each at least the one before
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_has_no_p_is_no_member_of_the_family():
    found = holm([0.02, math.nan, 0.03])
    assert found[0] == pytest.approx(0.04)
    assert found[2] == pytest.approx(0.04)
    assert math.isnan(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
def test_of_1000_families_of_equal_methods_few_show_a_difference(rng, paired):
    """Four methods against a baseline, five seeds: at least one false call in no more families than LEVEL says."""
    families, called = 1000, 0
    for _ in range(families):
        shared = rng.normal(0, 1, 5) if paired else np.zeros(5)  # what a seed does to every method
        figures = rng.normal(90, 1, (5, 5)) + shared
        baseline = dict(zip(range(5) if paired else range(5, 10), figures[0], strict=True))
        ps = [compare_with_baseline(by_seed(row), baseline).p for row in figures[1:]]
        called += min(holm(ps)) < LEVEL
    assert called <= families * LEVEL + 3 * math.sqrt(families * LEVEL * (1 - LEVEL))
    assert called > 5  # it does call sometimes


def test_a_real_difference_is_found(rng):
    found = [
        compare_with_baseline(by_seed(rng.normal(92, 0.5, 5)), by_seed(rng.normal(90, 0.5, 5))).p for _ in range(100)
    ]
    assert np.mean([p < LEVEL for p in found]) > 0.9


def test_the_interval_of_a_difference_is_the_closed_form(rng):
    a, b, c = rng.normal(1, 1, 5), rng.normal(0, 2, 5), rng.normal(0, 2, 7)
    paired = compare_with_baseline(by_seed(a), by_seed(b))
    reach = stats.t.ppf(0.975, 4) * stats.sem(a - b)
    assert (paired.low, paired.high) == pytest.approx((np.mean(a - b) - reach, np.mean(a - b) + reach))
    welch = compare_with_baseline(by_seed(a), by_seed(c))
    parts = [np.var(values, ddof=1) / len(values) for values in (a, c)]
    freedom = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, (5, 7), strict=True))
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(sum(parts))
    difference = np.mean(a) - np.mean(c)
    assert (welch.low, welch.high) == pytest.approx((difference - reach, difference + reach))
    assert math.isnan(compare_with_baseline(by_seed([1.0]), by_seed([2.0])).low)
