"""How much too good the chosen trial was: the metric by which it was chosen, and the same metric in the final runs."""

import math

import numpy as np
import pandas as pd

from ..methods import Comparison, losses_of
from ..metrics import value_bounds
from ..significance import estimate
from ..tables.noted_table import NotedTable
from ..tables.text import MEAN_INTERVAL, estimate_text, interval_text
from .searches import MethodSearch

CHOSEN = (
    "The best of several trials is partly lucky: on average, its value is too good an estimate for other seeds. Final"
    " runs have the same values of the keys and other seeds, and nothing is chosen among them."
)
SAME = "The difference is the mean of the final runs minus the value of the trial: above 0, the trial was too good."
OTHER = "The loss is that on the test set, by which no trial was chosen: final runs have no {metric}."
UNKNOWN = (
    " Final runs train on the samples that trials held out, too: how much too good the {metric} of the chosen trial is"
    " cannot be known. Final runs have more training samples than the trial, and so more steps in an epoch."
)
LONGER = " Final runs are longer than the trial, which changes their values, too: the difference is not of luck alone."


def chosen_values(comparison: Comparison) -> NotedTable:
    """Returns for each method the metric of the chosen trial, and that of its final runs."""
    finals = {
        method.name: [v for run in method.runs if math.isfinite(v := comparison.search_values.get(run, math.nan))]
        for method in comparison.methods
        if method.name in comparison.searches
    }
    is_same = any(finals.values())
    first = next(iter(comparison.searches.values()), None)
    metric = first.metric if first and is_same else "test loss"
    rows = []
    for method in comparison.methods:
        search = comparison.searches.get(method.name)
        if search is None:
            continue
        trial = search.best_value
        if not is_same:
            trial = math.nan if search.chosen_test_loss is None else search.chosen_test_loss
            finals[method.name] = list(comparison.runs.summaries.loc[method.runs, "final.loss"].dropna())
        value = estimate(finals[method.name], value_bounds(metric, losses_of(comparison.runs.summaries)))
        difference = value.mean - trial
        means = [estimate_text(value, ".4g"), interval_text(value, ".4g")]
        rows.append([method.label, number_text(trial, ".4g"), *means, number_text(difference, "+.3g")])
    if first is None:
        return NotedTable("chosen", "", [], [], "")
    note = (SAME if is_same else OTHER.format(metric=first.metric)) + (LONGER if length_differs(comparison) else "")
    details = CHOSEN + ("" if is_same else UNKNOWN.format(metric=first.metric))
    header = ["method", f"{metric} of the chosen trial", "mean of the final runs", MEAN_INTERVAL, "difference"]
    return NotedTable("chosen", f"Chosen trials and final runs: {metric}", header, rows, note, details=details)


def length_differs(comparison: Comparison) -> bool:
    """Returns whether final runs have another duration than the trials, and other numbers of steps."""
    search = next(iter(comparison.searches.values()))
    final_duration = str(comparison.runs.configs.loc[comparison.methods[0].runs[0], "duration"])
    return search.duration != final_duration and search.chosen_steps != comparison.runs.summaries["steps"].max()


def number_text(number: float, form: str) -> str:
    """Returns a number as text; empty for nan."""
    return "" if math.isnan(number) else f"{number:{form}}"


def final_value(rows: pd.DataFrame, search: MethodSearch) -> float:
    """Returns the metric of a search in a final run; nan where the run has none.

    Args:
        rows: all records of the run.
        search: which compared its trials by the metric.
    """
    if search.over_last is not None:
        kind, column, after = "train", "total", rows["step"].max() - search.over_last
    elif search.metric == "train loss":
        ends = rows.loc[rows["kind"] == "test", "step"].tolist()
        kind, column, after = "train", "total", ends[-2] if len(ends) > 1 else -1
    else:
        kind, _, column = search.metric.partition(" ")
        column, after = column.replace(" ", "_"), rows.loc[rows["kind"] == kind, "step"].max() - 1
    if column not in rows:
        return math.nan
    last = rows[(rows["kind"] == kind) & (rows["step"] > after)]
    values = pd.to_numeric(last[column], errors="coerce").to_numpy(float)
    return float(np.mean(values)) if len(values) else math.nan
