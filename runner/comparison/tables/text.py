"""Estimates and tests of a comparison as text, for the screen, the report and table.md."""

import math

from ..methods import Comparison, Method, values_by_method
from ..metrics import cost_form
from ..significance import LEVEL, MIN_SEEDS, Estimate, Verdict, compare_with_the_best, half_width

MEANING = (
    f"± is half of the 95 % interval of the mean over seeds (Student's t), from {MIN_SEEDS} seeds on; intervals, not ±,"
    " are cut at impossible values (below 0, above 100 %); SD is the standard deviation over seeds"
)
MEAN_INTERVAL, DIFFERENCE_INTERVAL = "95 % interval of the mean", "95 % interval of the difference"
EFFECT_INTERVAL = "95 % interval of g"
TEST_HEADER = ("difference", DIFFERENCE_INTERVAL, "p (Holm)", "effect (g)", EFFECT_INTERVAL, "test")
EQUAL_P = (
    "Equal values of {p} come from Holm's correction: a corrected {p} is never below that of a test with a smaller {p}"
)


def forced_text(comparison: Comparison) -> str:
    """Returns the reasons not to compare the runs, in a sentence; empty where there are none."""
    reasons = "; ".join(comparison.obstacles)
    return f"Warning: these runs should not be compared as they are: {reasons}." if reasons else ""


def has_equal_p(comparison: Comparison) -> bool:
    """Returns whether two tests have the same corrected p, below 1, from different ones."""
    tests = [m.verdict for m in comparison.methods if m.verdict and m.verdict.has_p_value and m.verdict.adjusted < 1]
    return len({v.adjusted for v in tests}) < len({v.p for v in tests})


def mean_text(value: Estimate, form: str) -> str:
    """Returns a mean alone."""
    return f"{value.mean:{form}}" if value.n else ""


def deviation_text(value: Estimate, form: str) -> str:
    """Returns the standard deviation over seeds."""
    return f"{value.std:{form}}" if value.n > 1 else ""


def interval_text(value: Estimate, form: str) -> str:
    """Returns the 95 % interval of a mean; of fewer than MIN_SEEDS seeds it is so wide that it says nothing."""
    return f"{value.low:{form}} to {value.high:{form}}" if value.n >= MIN_SEEDS else f"n = {value.n}" if value.n else ""


def estimate_text(value: Estimate, form: str) -> str:
    """Returns a mean with half of its 95 % interval, which fewer than MIN_SEEDS seeds have not."""
    form = with_decimals(form, value.mean)
    mean = mean_text(value, form)
    return f"{mean} ± {half_width(value):{form}}" if value.n >= MIN_SEEDS else mean


def with_decimals(form: str, number: float) -> str:
    """Returns a format that gives other numbers as many decimals as a format of significant digits gives this one.

    >>> with_decimals(".4g", 0.0862), with_decimals(".2f", 0.0862), with_decimals(".4g", 1e-9)
    ('.5f', '.2f', '.4g')
    """
    if not form.endswith("g") or not 1e-4 <= abs(number) < 1e4:
        return form
    return f".{max(0, int(form[1:-1]) - 1 - math.floor(math.log10(abs(number))))}f"


def target_text(method: Method, axis: str) -> str:
    """Returns the cost to reach the target, and the number of runs that did unless all did."""
    missed = f" ({method.reached_text})" if method.reached_text else ""
    return estimate_text(method.to_target[axis], cost_form(axis)) + missed


def interval_of_difference(verdict: Verdict | None, form: str) -> str:
    """Returns the 95 % interval of a difference; empty where there is none."""
    if verdict is None or math.isnan(verdict.low):
        return ""
    return f"{verdict.low:+{form}} to {verdict.high:+{form}}"


def interval_of_effect(verdict: Verdict | None) -> str:
    """Returns the 95 % interval of Hedges' g; empty where there is none."""
    if verdict is None or math.isnan(verdict.effect_low):
        return ""
    return f"{verdict.effect_low:+.2f} to {verdict.effect_high:+.2f}"


def verdict_cells(verdict: Verdict | None, form: str) -> list[str]:
    """Returns a test as text, a cell for each of TEST_HEADER."""
    if verdict is None:
        return ["", "", "", "", "", "baseline"]
    difference = "" if math.isnan(verdict.difference) else f"{verdict.difference:+{form}}"
    if not verdict.has_p_value:
        return [difference, "", "", "", "", verdict.kind]
    p = "<0.0001" if verdict.adjusted < 1e-4 else f"{verdict.adjusted:.4f}"
    p += " *" if verdict.is_significant else ""
    effect = [f"{verdict.effect:+.2f}", interval_of_effect(verdict)]
    return [difference, interval_of_difference(verdict, form), p, *effect, verdict.kind]


def conclusion_text(comparison: Comparison) -> str:
    """Returns the result of the tests, in a sentence."""
    metric = comparison.metrics[comparison.metric]
    words = ("better", "worse") if metric.more_is_better is not None else ("higher", "lower")
    others = [(m.label, m.verdict) for m in comparison.methods if m.verdict is not None]
    if not others:
        return "There is one method: nothing to compare it with."
    tests = [(label, v) for label, v in others if v.has_p_value]
    if not tests:
        return f"No test: {others[0][1].kind}."
    parts = [
        f"{label} is {words[(v.difference > 0) == (metric.more_is_better is False)]} than {comparison.baseline_label}"
        f" {margin_text(v, metric.form)}"
        for label, v in tests
        if v.is_significant
    ]
    if parts:
        return f"On {metric.label}: {'; '.join(parts)}.{best_text(comparison)}"
    return f"On {metric.label} no method differs significantly from {comparison.baseline_label}."


def untested_text(comparison: Comparison) -> str:
    """Returns that one metric alone is tested, in sentences; empty where nothing is, or there is no other."""
    others = [name for name in comparison.recorded if name != comparison.metric]
    if not others or not any(m.verdict and m.verdict.has_p_value for m in comparison.methods):
        return ""
    name = "final_loss" if "final_loss" in others else others[0]
    return (
        f"{comparison.metrics[comparison.metric].label} alone is tested: differences of other metrics and of costs may"
        f" be chance. --metric {name} tests another one in its place; p is not corrected for several such comparisons."
    )


def best_text(comparison: Comparison) -> str:
    """Returns which methods do not differ significantly from the best, in a sentence.

    It is empty where there are none, or the baseline is the best.
    """
    metric = comparison.metrics[comparison.metric]
    if metric.more_is_better is None:
        return ""
    best, verdicts = compare_with_the_best(values_by_method(comparison, metric.column), metric.more_is_better)
    labels = {method.name: method.label for method in comparison.methods}
    alike = [labels[name] for name, v in verdicts.items() if v.has_p_value and v.adjusted >= LEVEL]
    if best is None or best == comparison.baseline or not alike:
        return ""
    return f" {labels[best]} has the best mean, from which {', '.join(alike)} does not differ significantly."


def margin_text(verdict: Verdict, form: str) -> str:
    """Returns by how much two methods differ, with the interval of it, whichever is the better one."""
    low, high = sorted((abs(verdict.low), abs(verdict.high)))
    return f"by {abs(verdict.difference):{form}} ({DIFFERENCE_INTERVAL}: {low:{form}} to {high:{form}})"
