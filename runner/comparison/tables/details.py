"""Further tables of a comparison: differences from the best method, every run, and every trial."""

import math

from ..methods import Comparison, values_by_method
from ..significance import compare_with_the_best
from .noted_table import NotedTable, short
from .text import TEST_HEADER, verdict_cells

BEST = (
    "Each method against the one that turned out to have the best mean. Each interval is of the difference of the"
    " means, not corrected for their number; p is corrected by Holm's method, * below 0.05."
)
IN_BOLD = (
    "The table for papers has in bold the best and each that does not differ significantly from it; none where no"
    " method differs."
)
RUNS = "Values of single runs; table.csv has the estimates with all digits."
TRIALS = "Trials in their order, with the metric by which they were compared."


def differences_from_the_best(comparison: Comparison) -> NotedTable:
    """Returns the difference of each method from the best one, with its interval.

    There are no rows where there is no test, or where the tests against the baseline are the same: it is the best, or
    one of two methods.
    """
    metric = comparison.metrics[comparison.metric]
    rows = []
    if metric.more_is_better is not None:
        best, verdicts = compare_with_the_best(values_by_method(comparison, metric.column), metric.more_is_better)
        is_new = best != comparison.baseline and len(comparison.methods) > 2
        if is_new and any(verdict.has_p_value for verdict in verdicts.values()):
            for method in comparison.methods:
                verdict = verdicts.get(method.name)
                if method.name == best:
                    rows.append([method.label, "best", "", "", "", "", ""])
                elif verdict is not None:
                    rows.append([method.label, *verdict_cells(verdict, metric.form)])
    header = ["method", *TEST_HEADER]
    return NotedTable("best", f"Differences from the best: {metric.label}", header, rows, BEST, details=IN_BOLD)


def all_runs(comparison: Comparison) -> NotedTable:
    """Returns the metrics of every run, and its folder."""
    metrics = {name: comparison.metrics[name] for name in comparison.recorded}
    summaries = comparison.runs.summaries
    rows = []
    for method in comparison.methods:
        for run, seed in sorted(zip(method.runs, method.seeds, strict=True), key=lambda pair: pair[1]):
            values = [(summaries.at[run, metric.column], metric.form) for metric in metrics.values()]
            cells = ["" if math.isnan(value) else f"{value:{form}}" for value, form in values]
            rows.append([method.label, str(seed), str(summaries.at[run, "status"]), *cells, run])
    header = ["method", "seed", "status", *(metric.label for metric in metrics.values()), "folder"]
    return NotedTable("runs", "Every run", header, rows, RUNS, left=(0, 2, len(header) - 1))


def all_trials(comparison: Comparison) -> NotedTable:
    """Returns the point, the state and the metric of every trial."""
    searches = comparison.searches
    keys = list(dict.fromkeys(key for search in searches.values() for t in search.trials for key in t.params))
    rows = []
    for method in comparison.methods:
        search = searches.get(method.name)
        for number, trial in enumerate(search.trials if search else []):
            value = f"{trial.value:.4g}" if math.isfinite(trial.value) else ""
            point = [short(trial.params.get(key, "")) for key in keys]
            rows.append([method.label, str(number), trial.state, value, *point])
    metrics = dict.fromkeys(search.metric for search in searches.values())
    header = ["method", "trial", "state", ", ".join(metrics), *(key.lstrip("+") for key in keys)]
    return NotedTable("all-trials", "Every trial", header, rows, TRIALS, left=(0, 2))
