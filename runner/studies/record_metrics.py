"""Metrics that are read from the files of runs: from summary.json, and from the records of metrics.jsonl."""

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from ..comparison.metrics import AXES
from ..comparison.records.target_records import reaching
from ..config.durations import Duration
from ..config.forms.object_files import parse, require_keys
from ..records.frames import Runs
from ..system.errors import UserError, continued, nearest

AGGREGATES: dict[str, Callable[[pd.Series], float]] = {
    "last": lambda values: values.iloc[-1],
    "first": lambda values: values.iloc[0],
    "max": lambda values: values.max(),
    "min": lambda values: values.min(),
    "mean": lambda values: values.mean(),
    "sum": lambda values: values.sum(),
}
REDUCTIONS = ("take", "at", "reach", "fall_to")  # of a run's records to one value
# columns whose value of a diverged run stands in its summary, where the rule of `compare` has been applied
DIVERGED_COLUMNS = {"top1": "final.top1", "top5": "final.top5", "loss": "final.loss"}
DIVERGED_COLUMNS |= {"cross_entropy": "final.loss", "total": "final.loss"}


def summary_values(runs: Runs, selected: dict[int, str], column: Any) -> dict[int, float]:
    """Returns a column of the summaries, by seed.

    Args:
        runs: the frames.
        selected: runs by seed.
        column: as in `final.top1`.
    """
    if column not in runs.summaries:
        known = [name for name in runs.summaries if pd.api.types.is_numeric_dtype(runs.summaries[name])]
        problem = f"value: {column}: no such value in summary.json{nearest(str(column), known)}"
        some = "final.top1, final.loss, best_top1.value, lowest_loss.value, train_seconds"
        raise UserError(continued(problem, f"there are, among others, {some}"))
    numbers = pd.to_numeric(runs.summaries.loc[list(selected.values()), column], errors="coerce")
    if numbers.isna().all() and runs.summaries[column].map(lambda value: isinstance(value, str)).any():
        raise UserError(f"value: {column}: is not a number")
    return {seed: float(numbers[run]) for seed, run in selected.items()}


def record_values(runs: Runs, selected: dict[int, str], query: dict[str, Any]) -> dict[int, float]:
    """Returns values from the records of metrics.jsonl, by seed.

    Args:
        runs: the frames.
        selected: runs by seed.
        query: `kind` and `column` of the records, and one of REDUCTIONS: `take`, one of AGGREGATES; `at`, a position
            as 2epochs, whose last record before counts; `reach` or `fall_to`, a level, with the value of `axis` at
            the first record there (steps by default).
    """
    require_keys("row", query, ("kind", "column"), (*REDUCTIONS, "axis"))
    reductions = [name for name in REDUCTIONS if name in query]
    if len(reductions) != 1:
        raise UserError(f"row: must have one of {', '.join(REDUCTIONS)}, and has {', '.join(reductions) or 'none'}")
    (reduction,) = reductions
    if "axis" in query and reduction not in ("reach", "fall_to"):
        raise UserError("row: axis: belongs to reach and fall_to")
    records, column = runs.metrics, query["column"]
    is_selected = (records["kind"] == query["kind"]) & records["run"].isin(selected.values())
    records = records[is_selected].dropna(axis=1, how="all")
    if records.empty:
        kinds = ", ".join(dict.fromkeys(map(str, runs.metrics["kind"])))
        raise UserError(f"row: kind: {query['kind']}: no such records; there are {kinds}")
    if column not in records:
        known = [str(name) for name in records if name not in ("kind", "run")]
        problem = f"row: column: {column}: records of kind {query['kind']} have no such column"
        raise UserError(continued(f"{problem}{nearest(str(column), known)}", f"there are {', '.join(known)}"))
    reduce, has_position = reducer(query, reduction), None
    if reduction == "at":
        axis, amount = parse_position(query["at"])
        has_position = runs.metrics.groupby("run")[axis].max() >= amount * (1 - 1e-9)
    diverged = runs.summaries["status"] == "diverged"
    values = {}
    for seed, run in selected.items():
        of_run = records[records["run"] == run]
        of_run = of_run.assign(number=pd.to_numeric(of_run[column], errors="coerce")).dropna(subset="number")
        if diverged[run] and reduction in ("reach", "fall_to"):
            values[seed] = math.inf
        elif diverged[run] and column in DIVERGED_COLUMNS and query.get("take") != "sum":
            values[seed] = float(runs.summaries.at[run, DIVERGED_COLUMNS[column]])
        elif len(of_run) > 0 and (has_position is None or has_position[run]):
            values[seed] = float(reduce(of_run))
        else:
            values[seed] = math.nan
    return values


def reducer(query: dict[str, Any], reduction: str) -> Callable[[pd.DataFrame], float]:
    """Returns the function from a run's records, whose column `number` counts, to one value."""
    if reduction == "take":
        if query["take"] not in AGGREGATES:
            raise UserError(f"row: take: must be one of {', '.join(AGGREGATES)}, and is {query['take']}")
        return lambda records: AGGREGATES[query["take"]](records["number"])
    if reduction == "at":
        axis, amount = parse_position(query["at"])

        def last_before(records: pd.DataFrame) -> float:
            numbers = records.loc[records[axis] <= amount * (1 + 1e-9), "number"]
            return math.nan if numbers.empty else numbers.iloc[-1]

        return last_before
    axis = query.get("axis", "steps")
    if axis not in AXES:
        raise UserError(f"row: axis: must be one of {', '.join(AXES)}, and is {axis}")
    level = parse(f"row: {reduction}", query[reduction], float)

    def first_reached(records: pd.DataFrame) -> float:
        reached = reaching(records, level, more_is_better=reduction == "reach")
        return math.inf if reached.empty else reached[AXES[axis]].iloc[0]

    return first_reached


def parse_position(text: Any, key: str = "row: at") -> tuple[str, float]:
    """Returns (column of the records, amount) of a position in a run; `key` is its key, for errors.

    >>> parse_position("2epochs"), parse_position("500samples")
    (('epoch', 2.0), ('samples', 500.0))
    """
    for axis, column in AXES.items():
        amount = str(text).removesuffix(axis)
        if axis not in ("steps", "epochs") and amount != str(text):
            try:
                return column, float(amount)
            except ValueError:
                break
    try:
        duration = Duration.parse(text)
    except UserError as error:
        raise UserError(f"{key}: must be as 300steps, 2epochs or 5000samples, and is {text}") from error
    return AXES[duration.unit], float(duration.amount)
