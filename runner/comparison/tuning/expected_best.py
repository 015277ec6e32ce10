"""How much tuning a method needed: the metric of the best of so many trials."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...reporting.figure_style import points
from ...reporting.method_styles import method_styles
from ...reporting.style import (
    SavedFigure,
    add_legend,
    legend_columns,
    legend_height,
    needs_log_scale,
    new_figure,
    save_figure,
    set_note,
    style_axes,
)
from ..methods import Comparison, losses_of
from ..metrics import value_bounds
from .searches import MethodSearch

EXPECTED = "line: expected best of n trials drawn from all trials of the method; band: ± its standard deviation"
IN_ORDER = "best of the first n trials, in their order"
ESTIMATE = (
    "The expected lowest value of n trials drawn at random with replacement from all trials of the method"
    " (Dodge et al. 2019, section 3), with its standard deviation (SD)."
)
ESTIMATE_LIMITS = (
    "A band of one SD may lie below all trials. The estimate needs trials that are independent and identically"
    " distributed; near the number of trials it is biased, mostly upwards (Tang et al. 2020)."
)
ORDER_TEXT = "Trials of this search are not independent: the lowest value of the first n, in the order of the trials."
WORST = "A trial that diverged or failed counts as the highest finite value of all methods."


def expected_best(values: np.ndarray, n: int) -> tuple[float, float]:
    """Returns the expected lowest of n values drawn with replacement, and its standard deviation.

    The probability that the lowest of n draws is at least v is P(V >= v)^n, with the empirical distribution P (Dodge et
    al. 2019, "Show Your Work", section 3, for the highest value).

    >>> expected_best(np.array([1.0, 2.0]), 2)[0]
    1.25

    Args:
        values: finite, of shape (trials,).
        n: how many are drawn.
    """
    ordered = np.sort(values)
    at_least = (1 - np.arange(len(ordered) + 1) / len(ordered)) ** n
    weights = at_least[:-1] - at_least[1:]
    mean = float(weights @ ordered)
    return mean, math.sqrt(max(0.0, float(weights @ (ordered - mean) ** 2)))


def best_after(search: MethodSearch, n: int, worst: float) -> tuple[float, float | None]:
    """Returns the metric of the best of n trials, and its standard deviation where it is an expectation.

    Args:
        search: of the method.
        n: number of trials.
        worst: the value of a trial that diverged or failed.
    """
    values = np.array([value if math.isfinite(value) else worst for value in search.values])
    return expected_best(values, n) if search.kind == "random" else (float(values[:n].min()), None)


def worst_value(searches: Mapping[str, MethodSearch]) -> float:
    """Returns the highest finite value of any trial."""
    return max(value for search in searches.values() for value in search.values if math.isfinite(value))


def trial_counts(number: int) -> list[int]:
    """Returns 1, 2, 4 and so on, and the number of all trials.

    >>> trial_counts(6)
    [1, 2, 4, 6]
    """
    return [*(2**i for i in range(number.bit_length()) if 2**i < number), number]


def draw_expected_best(comparison: Comparison, out: Path) -> list[SavedFigure]:
    """Draws the metric of the best of n trials vs. n, a line for each method; no figure where one trial is all."""
    searches = comparison.searches
    longest = max((len(search.values) for search in searches.values()), default=0)
    if longest < 2:
        return []
    labels = {m.name: m.label for m in comparison.methods if m.name in searches}
    styles, worst = method_styles(m.name for m in comparison.methods), worst_value(searches)
    columns = legend_columns(labels.values())
    figure = new_figure(3.6, 0.6 + legend_height(len(labels), columns))
    axis = figure.subplots()
    handles, drawn = {}, []
    lowest, _ = value_bounds(next(iter(searches.values())).metric, losses_of(comparison.runs.summaries))
    for name, label in labels.items():
        search, (colour, line) = searches[name], styles[name]
        numbers = np.arange(1, len(search.values) + 1)
        best = [best_after(search, int(n), worst) for n in numbers]
        mean = np.array([value for value, _ in best])
        deviation = np.array([spread or 0.0 for _, spread in best])
        (handles[label],) = axis.plot(numbers, mean, color=colour, linestyle=line, marker="o", markersize=points(3))
        lower = np.maximum(mean - deviation, lowest)
        axis.fill_between(numbers, lower, mean + deviation, color=colour, alpha=0.12, linewidth=0)
        drawn += [mean, lower]
    if needs_log_scale(np.concatenate(drawn)):
        axis.set_yscale("log")
    axis.set_xscale("log", base=2)
    counts = trial_counts(longest)
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.set_xticks([], minor=True)
    first = next(iter(searches.values()))
    expected = EXPECTED + ("; cut at 0" if any((values == 0).any() for values in drawn) else "")
    axis.set_xlabel("trials of a method")
    axis.set_ylabel(f"best {first.metric}")
    set_note(axis, expected if first.kind == "random" else IN_ORDER)
    style_axes(axis)
    add_legend(figure, handles, columns)
    title = f"{'Expected best' if first.kind == 'random' else 'Best'} {first.metric} vs. number of trials"
    return [save_figure(figure, "expected_best", title, out)]
