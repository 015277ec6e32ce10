"""Verdicts on figures that a test chooses, against tests computed by scipy and intervals by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from trainopt.runner.studies.metrics import MetricResult
from trainopt.runner.studies.schema import Claim
from trainopt.runner.studies.verdicts import (
    CONTRADICTED,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    difference,
    judge_cell,
    judge_claim,
    parse_reference,
    reference_interval,
)
from trainopt.runner.system.errors import UserError

LOW, HIGH = [80.0, 80.4, 80.1, 80.3], [82.0, 82.3, 82.2, 82.6]


def measured(values, first=0, **more):
    return MetricResult(dict(enumerate(values, start=first)), **more)


def judged(order, *figures, within=None, **more):
    numbers = [MetricResult({0: float(f)}, is_constant=True) if isinstance(f, int | float) else f for f in figures]
    names = [f"m{i}" for i in range(1, len(figures) + 1)]
    return judge_claim(Claim("", "", order, names, within, **more), numbers)


def test_above_and_below_need_a_significant_difference_of_the_right_sign():
    high, low = measured(HIGH), measured(LOW)
    for order, one, other in (("above", high, low), ("below", low, high)):
        assert judged(order, one, other).verdict == REPRODUCED
        wrong = judged(order, other, one)
        assert (wrong.verdict, wrong.reason) == (CONTRADICTED, "opposite sign")
    noisy = measured([70.0, 95.0, 81.0, 84.0])
    unclear = judged("above", noisy, low)
    assert noisy.estimate.mean > low.estimate.mean
    assert (unclear.verdict, unclear.reason) == (UNDECIDED, "no significant difference")
    assert judged("below", noisy, low).verdict == UNDECIDED


def test_equal_seeds_are_paired_and_others_are_not():
    a, b = np.array(HIGH), np.array(LOW)
    paired = difference(dict(enumerate(HIGH)), dict(enumerate(LOW)))
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    assert paired.test == "paired"
    assert paired.p == pytest.approx(expected.pvalue)
    assert (paired.mean, paired.low, paired.high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
    welch = difference(dict(enumerate(HIGH)), dict(enumerate(LOW, start=5)))
    va, vb = a.var(ddof=1) / 4, b.var(ddof=1) / 4
    freedom = (va + vb) ** 2 / (va**2 / 3 + vb**2 / 3)
    reach = stats.t.ppf(0.975, freedom) * math.sqrt(va + vb)
    assert welch.test == "Welch"
    assert welch.p == pytest.approx(2 * stats.t.sf((a - b).mean() / math.sqrt(va + vb), freedom))
    assert (welch.low, welch.high) == pytest.approx(((a - b).mean() - reach, (a - b).mean() + reach))


def test_too_few_seeds_decide_nothing_unless_the_runs_have_no_randomness():
    for few in (
        judged("above", measured([82.0, 81.0]), measured([80.0, 85.0])),
        judged("above", measured([82.0]), 1.0),
    ):
        assert (few.verdict, few.reason) == (UNDECIDED, "no test: fewer than 3 seeds")
        assert math.isnan(few.difference.low)
    one = (measured([82.0]), measured([80.0]))
    assert judged("equal", *one, within=9.0).verdict == judged("equal", *one, within=0.5).verdict == UNDECIDED
    exact = judged("above", *one, deterministic=True)
    assert (exact.verdict, exact.reason) == (REPRODUCED, "deterministic: one run")
    wrong = judged("below", *one, deterministic=True)
    assert (wrong.verdict, wrong.reason) == (CONTRADICTED, "opposite sign; deterministic: one run")
    assert judged("above", one[0], one[0], deterministic=True).reason.startswith("no difference")
    assert judged("equal", *one, within=2.0, deterministic=True).verdict == REPRODUCED
    assert judged("equal", *one, within=1.9, deterministic=True).verdict == CONTRADICTED


def test_without_spread_the_sign_decides_and_it_is_said():
    three, five = measured([3.0] * 4), measured([5.0] * 4)
    for other in (five, measured([5.0] * 4, first=9)):
        judgement = judged("below", three, other)
        assert (judgement.verdict, judgement.reason) == (REPRODUCED, "no test: no variance over the seeds")
        assert judged("above", three, other).verdict == CONTRADICTED
    assert judged("above", three, three).reason == "no significant difference"


def test_equal_asks_for_the_whole_interval():
    a = measured([80.0, 80.2, 80.1, 80.3])
    b = measured([80.2, 80.1, 80.3, 80.2])
    reach = max(-judged("equal", a, b, within=9.0).difference.low, judged("equal", a, b, within=9.0).difference.high)
    assert judged("equal", a, b, within=1.01 * reach).verdict == REPRODUCED
    wide = judged("equal", a, b, within=0.99 * reach)
    assert (wide.verdict, wide.reason[:45]) == (UNDECIDED, "the confidence interval of the difference exc")
    far = judged("equal", measured(HIGH), a, within=0.5)
    assert (far.verdict, far.reason) == (CONTRADICTED, "they differ by more than 0.5")
    far = far.difference  # its mean is beyond the bound, and a part of its interval is not
    assert judged("equal", measured(HIGH), a, within=(far.low + far.mean) / 2).verdict == UNDECIDED
    assert judged("equal", a, measured(HIGH), within=0.99 * far.low).verdict == CONTRADICTED
    assert judged("equal", a, measured(HIGH), within=1.01 * far.high).verdict == REPRODUCED


def test_a_number_is_a_figure_without_spread():
    judgement = judged("above", measured(HIGH), 82.0)
    assert judgement.difference.p == pytest.approx(stats.ttest_1samp(HIGH, 82.0).pvalue)
    assert judged("above", measured(HIGH), 80.0).verdict == REPRODUCED
    assert judged("below", 80.0, measured(HIGH)).verdict == REPRODUCED


def test_rising_asks_for_every_step_and_for_the_whole_way():
    steps = [measured([x + spread for spread in (0.0, 0.1, 0.2)]) for x in (1.0, 2.0, 3.0)]
    assert judged("rising", *steps).verdict == REPRODUCED
    assert judged("falling", *reversed(steps)).verdict == REPRODUCED
    assert judged("falling", *steps).verdict == CONTRADICTED
    broken = judged("rising", steps[0], steps[2], steps[1])
    assert (broken.verdict, broken.reason) == (CONTRADICTED, "the mean of m3 is not above that of m2")
    bumpy = judged("rising", steps[0], measured([2.5, 9.0, -1.0]), steps[1])
    assert (bumpy.verdict, bumpy.reason[-17:]) == (UNDECIDED, "not significantly")
    flat = [measured([x, x + 5.0, x - 5.0]) for x in (1.0, 1.5)] + [measured([3.0, 9.0, -4.0])]
    assert judged("rising", *flat).reason == "no significant difference"
    assert judged("rising", 0.0, *steps).verdict == REPRODUCED


def test_runs_that_never_got_there_are_later_than_all_others():
    fast, never = measured([10.0, 12.0, 11.0, 13.0]), measured([math.inf] * 4)
    some = measured([20.0, math.inf, 25.0, math.inf])
    for slow in (never, some):
        assert judged("below", fast, slow).verdict == REPRODUCED
        assert judged("above", fast, slow).reason == "opposite sign"
    assert judged("below", never, never).reason == "no significant difference"
    assert judged("equal", fast, never, within=1.0).verdict == CONTRADICTED
    assert judged("equal", fast, measured([12.0, math.inf, 9.0, 12.5]), within=1.0).verdict == UNDECIDED
    assert judged("below", measured([10.0]), measured([math.inf])).verdict == UNDECIDED
    judgement = judged("below", fast, some)
    assert math.isnan(judgement.difference.mean)
    ranks = [[1, 3, 2, 4], [5, 7.5, 6, 7.5]]
    assert judgement.difference.p == pytest.approx(stats.ttest_rel(*ranks).pvalue)


def test_what_lacks_is_not_run():
    lacking = measured([], unavailable="mnist is missing: put mnist.npz into DIR")
    judgement = judged("above", measured(HIGH), lacking)
    assert (judgement.verdict, judgement.reason) == (NOT_RUN, "mnist is missing: put mnist.npz into DIR")
    assert judge_cell(lacking, 1.0, 0.5).verdict == NOT_RUN


@pytest.mark.parametrize(
    ("values", "reference", "tolerance", "verdict"),
    [
        ([72.6], 73.1, 0.5, REPRODUCED),  # one run is a point
        ([72.6], 73.2, 0.5, CONTRADICTED),
        ([72.6], 72.0, 0.5, CONTRADICTED),
        ([1.0, 2.0, 3.0], 4.4, 0.0, REPRODUCED),  # the interval: 2 ± 2.484
        ([1.0, 2.0, 3.0], 4.5, 0.0, CONTRADICTED),
        ([1.0, 2.0, 3.0], 4.5, 0.1, REPRODUCED),
        ([1.0, 2.0, 3.0], -0.5, 0.0, CONTRADICTED),
        ([2.0], [3.2, 1.0], 0.0, REPRODUCED),  # the reference's: ± 2.776 / sqrt(5) = 1.2417
        ([2.0], [3.25, 1.0], 0.0, CONTRADICTED),
        ([2.0], [4.4, 1.0, 3], 0.0, REPRODUCED),  # ± 4.303 / sqrt(3) = 2.484
        ([2.0], [4.4, 1.0, 5], 0.0, CONTRADICTED),
        ([2.0], [2.1, 1.0, 1], 0.0, CONTRADICTED),  # of one run a deviation says nothing
        ([1.0, 2.0, math.inf], 2.0, 9.0, UNDECIDED),
        ([math.inf, math.inf], 2.0, 9.0, CONTRADICTED),
    ],
)
def test_a_published_figure_lies_within_the_intervals_and_the_tolerance(values, reference, tolerance, verdict):
    assert judge_cell(measured(values), reference, tolerance).verdict == verdict


def test_the_spread_of_a_reference_is_of_five_seeds_unless_it_says():
    assert reference_interval([70.0, 2.0])[1] == pytest.approx(stats.t.ppf(0.975, 4) * 2.0 / math.sqrt(5))
    for wrong in ("73", [], [1, 2, 3, 4], {"a": 1}):
        with pytest.raises(UserError, match=r"reference: must be a number, \[number, deviation\]"):
            parse_reference(wrong)
