"""Is a claim of a study, or a published figure, reproduced? Verdicts and what they rest on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from ..comparison.significance import LEVEL, MIN_SEEDS, ROUNDING_ERROR, Estimate, compare_with_baseline, estimate
from ..system.errors import UserError
from .metrics import Found, Values
from .schema import Claim

REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
NOT_RUN, NOT_COMPARABLE = "not run", "not comparable"
VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE, NOT_RUN)
REFERENCE_SEEDS = 5  # that a published standard deviation is of, unless the study's file says another number


@dataclass(frozen=True)
class Difference:
    """What the first of two figures has more than the second.

    Attributes:
        sign: positive where it has.
        mean, low, high: the difference of means and its 95 % interval; nan where one never got there, and the
            interval too where there are too few seeds.
        p: two-sided; nan where there was no test.
        test: which, or why there was none.
    """

    sign: float
    mean: float
    low: float
    high: float
    p: float
    test: str

    @property
    def was_tested(self) -> bool:
        """Whether there is a p."""
        return not math.isnan(self.p)

    @property
    def is_significant(self) -> bool:
        """Whether p lies below `LEVEL`."""
        return self.p < LEVEL


@dataclass(frozen=True)
class Outcome:
    """A verdict.

    Attributes:
        verdict: one of VERDICTS.
        reason: in words; empty where there is nothing to add.
        difference: that it rests on, or None.
    """

    verdict: str
    reason: str = ""
    difference: Difference | None = None


def judge_claim(claim: Claim, figures: Sequence[Found]) -> Outcome:
    """Returns whether our figures say what a claim says.

    Args:
        claim: its order, and `within`.
        figures: those that it is about, in its order.
    """
    lacking = list(dict.fromkeys(found.lacks for found in figures if found.lacks))
    if lacking:
        return Outcome(NOT_RUN, "; ".join(lacking))
    values = with_numbers(figures)
    if claim.order == "equal":
        return judge_equal(difference(values[0], values[1]), claim.within or 0.0)
    sign = 1.0 if claim.order in ("above", "rising") else -1.0
    first, last = (values[0], values[1]) if claim.order in ("above", "below") else (values[-1], values[0])
    outcome = judge_order(difference(first, last), sign)
    if claim.order in ("rising", "falling"):
        steps = zip(values[1:], values[:-1], strict=True)
        broken = [str(i + 2) for i, (b, a) in enumerate(steps) if sign * difference(b, a).sign <= 0]
        if broken:
            word = "above" if sign > 0 else "below"
            told = f"number {', '.join(broken)} is not {word} the one before"
            return Outcome(NOT_REPRODUCED, told, outcome.difference)
    return outcome


def judge_order(found: Difference, sign: float) -> Outcome:
    """Returns whether a difference has a sign, and significantly so where there could be a test."""
    agrees = sign * found.sign > 0
    if not found.was_tested:
        told = f"no test: {found.test}"
        if agrees:
            return Outcome(REPRODUCED, told, found)
        return Outcome(NOT_REPRODUCED, f"{'the other way round' if found.sign else 'no difference'}; {told}", found)
    if not found.is_significant:
        return Outcome(NOT_REPRODUCED, "no significant difference", found)
    return Outcome(REPRODUCED, "", found) if agrees else Outcome(NOT_REPRODUCED, "the other way round", found)


def judge_equal(found: Difference, within: float) -> Outcome:
    """Returns whether two figures are equal but for `within`: the whole interval of their difference has to be."""
    if math.isnan(found.mean):
        return Outcome(NOT_REPRODUCED, "one of them is not reached in all runs", found)
    limit = within * (1 + ROUNDING_ERROR)
    if abs(found.mean) > limit:
        return Outcome(NOT_REPRODUCED, f"they differ by more than {within:g}", found)
    if math.isnan(found.low):
        return Outcome(REPRODUCED, f"no test: {found.test}", found)
    if max(-found.low, found.high) > limit:
        return Outcome(NOT_REPRODUCED, f"the interval of the difference goes beyond ±{within:g}", found)
    return Outcome(REPRODUCED, "", found)


def judge_cell(ours: Found, reference: float | Sequence[float], tolerance: float) -> Outcome:
    """Returns whether a published figure is that of our runs.

    It is where it lies within the 95 % interval of our mean (of one run: at its figure), which is widened on both
    sides by the tolerance, and by the half of the published figure's own interval.

    >>> judge_cell(Found({0: 72.6}), 73.1, 0.5).verdict, judge_cell(Found({0: 72.5}), 73.1, 0.5).verdict
    ('reproduced', 'not reproduced')

    Args:
        ours: the figure.
        reference: the published one; or that, its standard deviation, and of how many seeds (five unless said).
        tolerance: in its unit.
    """
    if ours.lacks:
        return Outcome(NOT_RUN, ours.lacks)
    if not ours.is_finite:
        return Outcome(NOT_REPRODUCED, f"reached in {ours.reached} of {len(ours.values)} runs")
    number, reach = reference_interval(reference)
    found = ours.estimate
    low, high = (found.mean, found.mean) if found.n == 1 else (found.low, found.high)
    more = tolerance + reach + ROUNDING_ERROR * abs(number)
    return Outcome(REPRODUCED if low - more <= number <= high + more else NOT_REPRODUCED)


def reference_interval(reference: float | Sequence[float]) -> tuple[float, float]:
    """Returns a published number, and how far its own 95 % interval reaches.

    >>> reference_interval(73.1)
    (73.1, 0.0)
    >>> number, reach = reference_interval([73.1, 0.2])
    >>> round(reach, 3)
    0.248
    """
    number, std, seeds = as_reference(reference)
    if std is None or seeds < 2:
        return number, 0.0
    return number, float(stats.t.ppf(0.975, seeds - 1)) * std / math.sqrt(seeds)


def as_reference(reference: float | Sequence[float]) -> tuple[float, float | None, int]:
    """Returns (number, standard deviation or None, seeds) of a published figure; UserError if it is none."""
    parts = [reference] if isinstance(reference, int | float) else reference
    if not isinstance(parts, list) or len(parts) not in (1, 2, 3) or not all(isinstance(p, int | float) for p in parts):
        raise UserError(
            f"reference: must be a number, [number, deviation] or [number, deviation, seeds], and is {parts}"
        )
    number, *more = parts
    return float(number), float(more[0]) if more else None, int(more[1]) if len(more) > 1 else REFERENCE_SEEDS


def with_numbers(figures: Sequence[Found]) -> list[Values]:
    """Returns the values; a number of the study's file stands for as many equal ones as another figure has."""
    seeds = next((found.values for found in figures if not found.is_number), {0: 0.0})
    return [dict.fromkeys(seeds, next(iter(f.values.values()))) if f.is_number else f.values for f in figures]


def difference(a: Values, b: Values) -> Difference:
    """Returns what `a` has more than `b`, tested as `trainopt compare` does.

    Where a run never got there, it counts as later than all others: the test is then on ranks (Conover and Iman
    1981), and says nothing of how large the difference is.
    """
    finite = all(map(math.isfinite, [*a.values(), *b.values()]))
    verdict = compare_with_baseline(a, b) if finite else compare_with_baseline(*ranks(a, b))
    test = verdict.kind
    if not verdict.has_p_value:
        test = f"fewer than {MIN_SEEDS} seeds" if min(len(a), len(b)) < MIN_SEEDS else "no spread over the seeds"
    if not finite:
        told = f"{test}, on ranks" if verdict.has_p_value else test
        return Difference(verdict.difference, math.nan, math.nan, math.nan, verdict.p, told)
    span = interval(a, b) if min(len(a), len(b)) >= MIN_SEEDS else None
    low, high = (span.low, span.high) if span else (math.nan, math.nan)
    return Difference(verdict.difference, verdict.difference, low, high, verdict.p, test)


def interval(a: Values, b: Values) -> Estimate:
    """Returns the difference of means with its 95 % interval: of pairs where the seeds agree, else Welch's."""
    if a.keys() == b.keys():
        return estimate([a[seed] - b[seed] for seed in a])
    one, two = estimate(list(a.values())), estimate(list(b.values()))
    mean = one.mean - two.mean
    if max(one.std, two.std) <= ROUNDING_ERROR * max(abs(one.mean), abs(two.mean)):
        return Estimate(mean, 0.0, one.n + two.n, mean, mean)
    span = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).confidence_interval(0.95)
    return Estimate(mean, math.nan, one.n + two.n, float(span.low), float(span.high))


def ranks(a: Values, b: Values) -> tuple[Values, Values]:
    """Returns the places of all values in their common order; equal ones, as all infinite ones, share the mean.

    >>> ranks({0: 2.0, 1: 5.0}, {0: 7.0, 1: math.inf})
    ({0: 1.0, 1: 2.0}, {0: 3.0, 1: 4.0})
    """
    places = stats.rankdata([*a.values(), *b.values()]).tolist()
    return dict(zip(a, places[: len(a)], strict=True)), dict(zip(b, places[len(a) :], strict=True))
