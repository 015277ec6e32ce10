"""The records of runs at which they reach a target."""

import pandas as pd

from ...records.frames import Runs
from ...state.progress import HVP_COST
from ...system.errors import UserError
from ..metrics import AXES, PROBE, TARGETS, Target

TARGET_VALUE = "target_value"  # the column with the metric of the target, where its own column holds running means


def gradient_equivalents(counts: pd.DataFrame) -> pd.Series:
    """Returns the cost of gradients and Hessian-vector products together, in gradient evaluations."""
    by_counts = counts["gradients"] + HVP_COST * counts["hvps"]
    return counts["gradient_equivalents"].fillna(by_counts) if "gradient_equivalents" in counts else by_counts


def selection_kinds(runs: Runs) -> pd.Series:
    """Returns for each record the kind of evaluation that its run's best metrics come from."""
    return runs.metrics["run"].map(runs.summaries["best_on"])


def selection_rows(runs: Runs) -> pd.DataFrame:
    """Returns the evaluations that best metrics come from: on the validation set, or else on the test set."""
    return runs.metrics[runs.metrics["kind"] == selection_kinds(runs)]


def target_rows(records: pd.DataFrame, best_on: str | pd.Series, metric: str) -> pd.DataFrame:
    """Returns the records that have the metric of a target, with its values as a column `number`, without gaps.

    Args:
        records: of one or several runs.
        best_on: the kind of evaluation that best metrics come from, for all records or for each.
        metric: one of TARGETS.
    """
    kind, column = TARGETS[metric].kind, TARGETS[metric].column
    is_of_kind = records["kind"] == (best_on if kind is None else kind)
    if kind == "probe" and "probe" in records:
        is_of_kind &= records["probe"] == PROBE
    rows = records[is_of_kind]
    numbers = rows.reindex(columns=[column])[column]
    if TARGET_VALUE in rows:
        numbers = rows[TARGET_VALUE].fillna(numbers)
    return rows.assign(number=pd.to_numeric(numbers, errors="coerce")).dropna(subset="number")


def reaching(rows: pd.DataFrame, level: float, more_is_better: bool) -> pd.DataFrame:
    """Returns the records whose `number` is at least a level, or at most where less is better."""
    return rows[rows["number"] >= level if more_is_better else rows["number"] <= level]


def first_at_target(runs: Runs, target: Target) -> pd.DataFrame:
    """Returns AXES at the first record of each run that reaches the target; a diverged run does not."""
    rows = target_rows(runs.metrics, selection_kinds(runs), target.metric)
    rows = rows[rows["run"].isin(converged_runs(runs))]
    at_target = reaching(rows, target.value, target.more_is_better)
    return at_target.drop_duplicates("run").set_index("run")[list(AXES.values())]


def converged_runs(runs: Runs) -> pd.Index:
    """Returns the runs that did not diverge."""
    return runs.summaries.index[runs.summaries["status"] != "diverged"]


def check_target(runs: Runs, target: Target) -> None:
    """Raises UserError where a run has no records of the target's metric, or guessing has a better accuracy."""
    rows = target_rows(runs.metrics, selection_kinds(runs), target.metric)
    without = [run for run in converged_runs(runs) if run not in set(rows["run"])]
    if target.metric == "top1":
        hint = f"; for a loss give --target loss={target.value:g}"
        if without:
            raise UserError(f"--target {target.value:g}: is an accuracy in percent, and {without[0]} has none{hint}")
        chance = 100 / pd.to_numeric(runs.summaries["classes"]).max()
        if target.value < chance:
            text = f"is an accuracy in percent, and guessing reaches {chance:g} %"
            raise UserError(f"--target {target.value:g}: {text}{hint}")
    elif without:
        raise UserError(f"--target {target.metric}: {without[0]} has no {TARGETS[target.metric].needs}")
