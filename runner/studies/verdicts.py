"""Verdicts on claims and published values: reproduced, contradicted or undecided, and on which test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from scipy import stats

from ..comparison.significance import LEVEL, MIN_SEEDS, ROUNDING_ERROR, Estimate, compare_with_baseline, estimate
from ..system.errors import UserError
from .metrics import MetricResult, SeedValues
from .schema import Claim

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"
NOT_RUN, NOT_COMPARABLE = "not run", "not comparable"
VERDICTS = (REPRODUCED, CONTRADICTED, UNDECIDED, NOT_COMPARABLE, NOT_RUN)
NO_VARIANCE = "no variance over the seeds"
DETERMINISTIC = "deterministic: one run"
REFERENCE_SEEDS = 5  # of a published standard deviation, unless the study's file names another number


@dataclass(frozen=True)
class Difference:
    """The difference of two metrics, first minus second.

    Attributes:
        sign: has the sign of the difference, also where the means are infinite.
        mean, low, high: the difference of means and its 95 % confidence interval; nan where a value is infinite, and
            the interval also with too few seeds.
        p: two-sided; nan without a test.
        test: its name, or why there is none.
    """

    sign: float
    mean: float
    low: float
    high: float
    p: float
    test: str

    @property
    def has_test(self) -> bool:
        """Whether there is a p-value."""
        return not math.isnan(self.p)

    @property
    def is_significant(self) -> bool:
        """Whether p < `LEVEL`."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reason.

    Attributes:
        verdict: one of VERDICTS.
        reason: in words; may be empty.
        difference: that was tested, or None.
    """

    verdict: str
    reason: str = ""
    difference: Difference | None = None


def judge_claim(claim: Claim, results: Sequence[MetricResult]) -> Judgement:
    """Returns the verdict on a claim.

    Args:
        claim: that is judged.
        results: of its metrics, in its order.
    """
    reasons = dict.fromkeys(result.unavailable for result in results if result.unavailable)
    if reasons:
        return Judgement(NOT_RUN, "; ".join(reasons))
    if claim.order == "at_most":
        return judge_at_most(claim, [result.median for result in results])
    values = with_constants(results)
    if claim.order == "equal":
        return judge_equal(difference(values[0], values[1]), claim.within or 0.0, claim.deterministic)
    sign = 1.0 if claim.order in ("above", "rising") else -1.0
    first, last = (values[0], values[1]) if claim.order in ("above", "below") else (values[-1], values[0])
    judgement = judge_order(difference(first, last), sign, claim.deterministic)
    if claim.order in ("rising", "falling") and judgement.verdict != CONTRADICTED:
        steps = [difference(b, a) for a, b in pairwise(values)]
        wrong = {i: step for i, step in enumerate(steps, start=2) if sign * step.sign <= 0}
        verdicts = [judge_order(step, sign, claim.deterministic).verdict for step in wrong.values()]
        if wrong:
            word = "above" if sign > 0 else "below"
            which = ", ".join(f"the mean of {claim.of[i - 1]} is not {word} that of {claim.of[i - 2]}" for i in wrong)
            verdict = CONTRADICTED if CONTRADICTED in verdicts else UNDECIDED
            reason = which if verdict == CONTRADICTED else f"{which}; not significantly"
            return Judgement(verdict, reason, judgement.difference)
    return judgement


def judge_at_most(claim: Claim, medians: Sequence[float]) -> Judgement:
    """Returns whether enough pairs keep to the claim's factor; a median that misses its level keeps to none."""
    pairs = list(zip(medians[::2], medians[1::2], strict=True))
    count = sum(math.isfinite(a) and a <= (claim.factor or 0.0) * b * (1 + ROUNDING_ERROR) for a, b in pairs)
    verdict = REPRODUCED if count >= (claim.pairs or len(pairs)) else CONTRADICTED
    return Judgement(verdict, f"in {count} of {len(pairs)}" if len(pairs) > 1 else "")


def judge_order(observed: Difference, sign: float, deterministic: bool) -> Judgement:
    """Returns whether a difference has the claimed sign: significantly so, or without randomness."""
    agrees = sign * observed.sign > 0
    opposite = "opposite sign" if observed.sign else "no difference"
    if observed.has_test:
        if not observed.is_significant:
            return Judgement(UNDECIDED, "no significant difference", observed)
        return Judgement(REPRODUCED, "", observed) if agrees else Judgement(CONTRADICTED, opposite, observed)
    if not deterministic and observed.test != NO_VARIANCE:
        return Judgement(UNDECIDED, f"no test: {observed.test}", observed)
    why = DETERMINISTIC if deterministic else f"no test: {observed.test}"
    return Judgement(REPRODUCED, why, observed) if agrees else Judgement(CONTRADICTED, f"{opposite}; {why}", observed)


def judge_equal(observed: Difference, within: float, deterministic: bool) -> Judgement:
    """Returns whether a difference lies within a bound of 0: with its whole confidence interval, or without randomness.

    It is contradicted where the whole interval lies beyond the bound.
    """
    if math.isnan(observed.mean):
        verdict = CONTRADICTED if observed.is_significant else UNDECIDED
        return Judgement(verdict, "one of them is not reached in all runs", observed)
    if math.isnan(observed.low) and not deterministic:
        return Judgement(UNDECIDED, f"no test: {observed.test}", observed)
    low, high = (observed.mean, observed.mean) if math.isnan(observed.low) else (observed.low, observed.high)
    limit, why = within * (1 + ROUNDING_ERROR), DETERMINISTIC if deterministic else ""
    if max(-low, high) <= limit:
        return Judgement(REPRODUCED, why, observed)
    if low > limit or high < -limit:
        return Judgement(CONTRADICTED, "; ".join(filter(None, (f"they differ by more than {within:g}", why))), observed)
    return Judgement(UNDECIDED, f"the confidence interval of the difference exceeds ±{within:g}", observed)


def judge_cell(ours: MetricResult, reference: float | Sequence[float], tolerance: float) -> Judgement:
    """Returns whether our runs reproduce a published value.

    They do if it lies in the 95 % confidence interval of our mean (of one run: if it equals its value), widened on
    both sides by the tolerance and by half of the published value's own confidence interval.

    >>> judge_cell(MetricResult({0: 72.6}), 73.1, 0.5).verdict, judge_cell(MetricResult({0: 72.5}), 73.1, 0.5).verdict
    ('reproduced', 'contradicted')

    Args:
        ours: the result of our runs.
        reference: the published mean; or [mean, standard deviation(, seeds)], where seeds is REFERENCE_SEEDS if left
            out.
        tolerance: in the value's unit.
    """
    if ours.unavailable:
        return Judgement(NOT_RUN, ours.unavailable)
    if not ours.is_finite:
        reason = f"reached in {ours.finite_count} of {len(ours.values)} runs"
        return Judgement(UNDECIDED if ours.finite_count else CONTRADICTED, reason)
    number, half_width = reference_interval(reference)
    e = ours.estimate
    low, high = (e.mean, e.mean) if e.n == 1 else (e.low, e.high)
    margin = tolerance + half_width + ROUNDING_ERROR * abs(number)
    return Judgement(REPRODUCED if low - margin <= number <= high + margin else CONTRADICTED)


def reference_interval(reference: float | Sequence[float]) -> tuple[float, float]:
    """Returns a published mean and half the width of its 95 % confidence interval.

    >>> reference_interval(73.1)
    (73.1, 0.0)
    >>> mean, half_width = reference_interval([73.1, 0.2])
    >>> round(half_width, 3)
    0.248
    """
    mean, std, seeds = parse_reference(reference)
    if std is None or seeds < 2:
        return mean, 0.0
    return mean, float(stats.t.ppf(0.975, seeds - 1)) * std / math.sqrt(seeds)


def parse_reference(reference: float | Sequence[float]) -> tuple[float, float | None, int]:
    """Returns (mean, standard deviation or None, number of seeds) of a published value.

    Raises:
        UserError: it has another form.
    """
    parts = [reference] if isinstance(reference, int | float) else reference
    if not isinstance(parts, list) or len(parts) not in (1, 2, 3) or not all(isinstance(p, int | float) for p in parts):
        raise UserError(
            f"reference: must be a number, [number, deviation] or [number, deviation, seeds], and is {parts}"
        )
    mean, *more = parts
    return float(mean), float(more[0]) if more else None, int(more[1]) if len(more) > 1 else REFERENCE_SEEDS


def with_constants(results: Sequence[MetricResult]) -> list[SeedValues]:
    """Returns the values of results; a constant gets the seeds of the first one that was measured."""
    seeds = next((result.values for result in results if not result.is_constant), {0: 0.0})
    return [dict.fromkeys(seeds, next(iter(r.values.values()))) if r.is_constant else r.values for r in results]


def difference(a: SeedValues, b: SeedValues) -> Difference:
    """Returns a - b, tested as `trainopt compare` does.

    Infinite values, of runs that never reach a level, count as larger than all others: the test is then on ranks
    (Conover and Iman 1981), and the size of the difference is unknown.
    """
    finite = all(map(math.isfinite, [*a.values(), *b.values()]))
    verdict = compare_with_baseline(a, b) if finite else compare_with_baseline(*ranks(a, b))
    test = verdict.kind
    if not verdict.has_p_value:
        test = f"fewer than {MIN_SEEDS} seeds" if min(len(a), len(b)) < MIN_SEEDS else NO_VARIANCE
    if not finite:
        test = f"{test}, on ranks" if verdict.has_p_value else test
        return Difference(verdict.difference, math.nan, math.nan, math.nan, verdict.p, test)
    interval = difference_interval(a, b) if min(len(a), len(b)) >= MIN_SEEDS else None
    low, high = (interval.low, interval.high) if interval else (math.nan, math.nan)
    return Difference(verdict.difference, verdict.difference, low, high, verdict.p, test)


def difference_interval(a: SeedValues, b: SeedValues) -> Estimate:
    """Returns the difference of means with its 95 % confidence interval: paired for equal seeds, else Welch's."""
    if a.keys() == b.keys():
        return estimate([a[seed] - b[seed] for seed in a])
    one, two = estimate(list(a.values())), estimate(list(b.values()))
    mean = one.mean - two.mean
    if max(one.std, two.std) <= ROUNDING_ERROR * max(abs(one.mean), abs(two.mean)):
        return Estimate(mean, 0.0, one.n + two.n, mean, mean)
    interval = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).confidence_interval(0.95)
    return Estimate(mean, math.nan, one.n + two.n, float(interval.low), float(interval.high))


def ranks(a: SeedValues, b: SeedValues) -> tuple[SeedValues, SeedValues]:
    """Returns the ranks of all values in their common order; ties, as among infinite values, share the mean rank.

    >>> ranks({0: 2.0, 1: 5.0}, {0: 7.0, 1: math.inf})
    ({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0})
    """
    ranked = stats.rankdata([*a.values(), *b.values()]).tolist()
    return dict(zip(a, ranked[: len(a)], strict=True)), dict(zip(b, ranked[len(a) :], strict=True))
