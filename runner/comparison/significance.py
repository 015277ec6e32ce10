"""Statistics over seeds: means with intervals, tests against a baseline, correction for the number of tests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr

LEVEL = 0.05
INTERVAL = 0.95  # level of confidence
ROUNDING_ERROR = 1e-12  # relative: a spread that is no larger comes from adding up
MIN_SEEDS = 3  # of each method, below which there is no test
CHI_POINTS = 1000  # quantiles of chi, over which the noncentral t distribution is averaged


@dataclass(frozen=True)
class Estimate:
    """Mean, standard deviation (n - 1) and number of values; the 95 % interval of the mean, by Student's t.

    With one value, `std`, `low` and `high` are nan; with none, all but `n` are.
    """

    mean: float
    std: float
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """A test of a method against the baseline.

    Attributes:
        kind: `paired` (Student's t on the differences of equal seeds), `Welch` (unequal variances), or why there is
            no test; `p` is nan then.
        difference: of the means, the method's minus the baseline's.
        p: two-sided.
        effect: Hedges' g with the mean of the two variances: the difference in standard deviations.
        adjusted: p after Holm's correction for the number of methods.
        low, high: the 95 % interval of the difference, of the same test and not corrected; nan where there is none.
        effect_low, effect_high: that of the effect, as of `effect_interval`.
    """

    kind: str
    difference: float
    p: float
    effect: float
    adjusted: float = math.nan
    low: float = math.nan
    high: float = math.nan
    effect_low: float = math.nan
    effect_high: float = math.nan

    @property
    def has_p_value(self) -> bool:
        """Whether there was a test."""
        return not math.isnan(self.p)

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p is below `LEVEL`."""
        return self.adjusted < LEVEL


def estimate(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Estimate:
    """Returns mean, standard deviation and interval of values; the interval ends at the bounds of what they can be.

    >>> e = estimate([1.0, 2.0, 3.0])
    >>> e.mean, e.std, e.n, round(e.high, 3)
    (2.0, 1.0, 3, 4.484)
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, 0, math.nan, math.nan)
    mean = float(np.mean(values))
    if n == 1:
        return Estimate(mean, math.nan, 1, math.nan, math.nan)
    # of equal values rounding would leave a little
    std = 0.0 if min(values) == max(values) else float(np.std(values, ddof=1))
    reach = half_width(Estimate(mean, std, n, math.nan, math.nan))
    return Estimate(mean, std, n, max(mean - reach, bounds[0]), min(mean + reach, bounds[1]))


def half_width(value: Estimate) -> float:
    """Returns half the 95 % interval of a mean, by Student's t; nan where there is one value."""
    return float(stats.t.ppf(0.975, value.n - 1)) * value.std / math.sqrt(value.n) if value.n > 1 else math.nan


def compare_with_baseline(method: Mapping[int, float], baseline: Mapping[int, float]) -> Verdict:
    """Tests whether two methods differ, from their values by seed.

    Runs with the same seeds are paired; if the seeds differ, even in one, Welch's test takes all runs.
    """
    a, b = list(method.values()), list(baseline.values())
    difference = (float(np.mean(a)) - float(np.mean(b))) if a and b else math.nan
    if min(len(a), len(b)) < MIN_SEEDS:
        return Verdict(f"fewer than {MIN_SEEDS} seeds", difference, math.nan, math.nan)
    if not np.isfinite([*a, *b]).all():
        return Verdict("a value is not finite", difference, math.nan, math.nan)
    effect = hedges_g(a, b)
    if method.keys() == baseline.keys():
        differences = np.array([method[seed] - baseline[seed] for seed in method])
        kind, spread = "paired", np.ptp(differences)
    else:
        kind, spread = "Welch", max(np.ptp(a), np.ptp(b))
    negligible = ROUNDING_ERROR * max(map(abs, [*a, *b]))
    if spread <= negligible:  # rounded values can agree in every digit: without spread there is no test
        if abs(difference) <= negligible:
            return Verdict(kind, difference, 1.0, effect)
        reason = "the same difference for every seed" if kind == "paired" else "no spread over the seeds"
        return Verdict(reason, difference, math.nan, effect)
    result = stats.ttest_rel(a, [baseline[seed] for seed in method]) if kind == "paired" else None
    if result is None:
        result = stats.ttest_ind(a, b, equal_var=False)
    low, high = map(float, result.confidence_interval(INTERVAL))
    error = (high - low) / (2 * float(stats.t.ppf((1 + INTERVAL) / 2, result.df)))
    ends = effect_interval(float(result.statistic), float(result.df), error / mean_deviation(a, b))
    return Verdict(kind, difference, float(result.pvalue), effect, math.nan, low, high, *ends)


def compare_with_the_best(
    values: Mapping[str, Mapping[int, float]], more_is_better: bool
) -> tuple[str | None, dict[str, Verdict]]:
    """Returns the method with the best mean (None: no values), and a test of every other one against it.

    These are tests as against a baseline, with Holm's correction for their number.

    Args:
        values: by seed, for each method; methods with a value that is not finite are left out.
        more_is_better: whether the highest mean is the best.
    """
    finite = {name: by_seed for name, by_seed in values.items() if by_seed and np.isfinite([*by_seed.values()]).all()}
    if not finite:
        return None, {}
    means = {name: float(np.mean([*by_seed.values()])) for name, by_seed in finite.items()}
    best = (max if more_is_better else min)(means, key=lambda name: means[name])
    others = [name for name in finite if name != best]
    verdicts = [compare_with_baseline(finite[name], finite[best]) for name in others]
    adjusted = holm([verdict.p for verdict in verdicts])
    return best, {
        name: replace(verdict, adjusted=p) for name, verdict, p in zip(others, verdicts, adjusted, strict=True)
    }


def methods_in_bold(values: Mapping[str, Mapping[int, float]], more_is_better: bool) -> set[str]:
    """Returns the method with the best mean, and those that do not differ significantly from it; none where all are so.

    Without a test, a method belongs to them only if its mean is the same. The arguments are those of
    `compare_with_the_best`.
    """
    best, verdicts = compare_with_the_best(values, more_is_better)
    if best is None:
        return set()
    same = {name for name, v in verdicts.items() if v.difference == 0}
    alike = same | {name for name, v in verdicts.items() if v.has_p_value and v.adjusted >= LEVEL}
    return set() if len(alike) + 1 == len(values) else {best} | alike


def hedges_g(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the difference of means in standard deviations, corrected for small samples (Hedges 1981).

    >>> round(hedges_g([2.0, 3.0, 4.0], [1.0, 2.0, 3.0]), 3)
    0.8
    """
    spread = mean_deviation(a, b)
    difference = float(np.mean(a) - np.mean(b))
    if spread == 0:
        return math.nan if difference else 0.0
    return difference / spread * (1 - 3 / (4 * (len(a) + len(b) - 2) - 1))


def mean_deviation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the root of the mean of two variances, in which effects are measured."""
    return math.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / 2)


def effect_interval(t: float, freedom: float, scale: float) -> tuple[float, float]:
    """Returns the 95 % interval of a difference in standard deviations, by the noncentral t distribution of a test.

    These are the noncentralities for which a t as high or as low has probability 2.5 %, times the scale (Steiger and
    Fouladi 1997; for paired values Algina and Keselman 2003: approximate, as the scale is estimated). 0 is excluded
    where p < 0.05.

    Args:
        t: statistic of the test.
        freedom: its degrees of freedom.
        scale: standard error of the difference, in standard deviations.

    >>> [round(end, 2) for end in effect_interval(2.5, 2, 0.8)]
    [-0.46, 4.33]
    """
    chi = np.sqrt(stats.chi2.ppf((np.arange(CHI_POINTS) + 0.5) / CHI_POINTS, freedom) / freedom)
    reach = abs(t) * float(chi[-1]) + 10

    def excess(noncentrality: float, probability: float) -> float:
        return float(ndtr(t * chi - noncentrality).mean()) - probability

    tail = (1 - INTERVAL) / 2
    low, high = (brentq(excess, -reach, reach, args=(probability,)) for probability in (1 - tail, tail))
    return scale * low, scale * high


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number (Holm 1979); nan does not count as a test, and stays nan.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tests):
        highest = max(highest, min(1.0, p * (len(tests) - rank)))
        adjusted[index] = highest
    return adjusted
