"""Bounds the records that a comparison holds of a run, whatever their number.

Of each kind of record POINTS stay for curves, evenly spread, as a curve in a figure has no more. The records from which
numbers in tables and single points in figures come stay too, so that none of these depends on what is left out.
"""

from typing import Any

import numpy as np
import pandas as pd

from ...reporting.style import running_mean
from ..metrics import AXES, Target
from .target_records import TARGET_VALUE, gradient_equivalents, target_rows

POINTS = 1000  # of a line at most: more cannot be told apart, and make the SVG large
# the column that says whether a record is a point of curves, and its training values running means over all records
CURVE_POINT = "is_curve_point"
EPOCH_FRACTIONS = (0.05, 0.2, 0.4, 0.6, 0.8, 1.0)  # of a run's epochs, for the points of its trajectory
NOT_SMOOTHED = ("step", "epoch", "samples", "gradients", "hvps", "gradient_equivalents", "lr", "batch_size")
TENTHS = [tenth / 10 for tenth in range(1001)]  # of a percent: the targets of `compare_methods` where none is set


def thin_records(records: pd.DataFrame, best_on: str, target: Target | None = None) -> pd.DataFrame:
    """Returns the records of a run that its comparison needs; all of them, as they are, where no kind has over POINTS.

    Args:
        records: in their order.
        best_on: the kind of evaluation that best values come from.
        target: besides accuracies of TENTHS.
    """
    if len(records) <= POINTS:
        return records
    names = [name for name in ("kind", "probe", "regularizer") if name in records]
    groups = [rows.index.to_numpy() for _, rows in records.groupby(names, dropna=False, sort=False)]
    if all(len(group) <= POINTS for group in groups):
        return records
    records = records.assign(gradient_equivalents=gradient_equivalents(records))
    even = np.concatenate([group[even_indices(len(group))] for group in groups])
    stay: list[Any] = [even]
    if "top5" in records:
        top5 = records.loc[records["kind"] == best_on, "top5"]
        stay.append(top5.index[top5 == top5.max()][:1])
    stay.append(rows_of_costs(target_rows(records, best_on, "top1"), TENTHS))
    of_target = None
    if target is not None:
        rows = target_rows(records, best_on, target.metric)
        of_target = rows["number"].reindex(records.index)
        sign = 1 if target.more_is_better else -1
        stay.append(rows_of_costs(rows.assign(number=sign * rows["number"]), [sign * target.value]))
        stay += [[(sign * rows["number"]).idxmax()]] if len(rows) else []
    stay += [records.index[records["kind"] == "test"][-2:]]  # their difference is said
    stay += [[values.idxmax()] for axis in AXES.values() if len(values := records[axis].dropna().astype(float))]
    if {"C_K", "L_K"} <= set(records):
        stay.append(rows_of_trajectory(records))
    if "batch_size" in records:
        records = records.assign(batch_size=sizes_of_epochs(records))
        sizes = records["batch_size"].dropna()
        stay += [[sizes.idxmin(), sizes.idxmax()]] if len(sizes) else []
    records = with_running_means(records).assign(**{CURVE_POINT: records.index.isin(even)})
    if of_target is not None:
        records[TARGET_VALUE] = of_target
    return records.loc[np.unique(np.concatenate(stay).astype(int))]


def even_indices(count: int) -> np.ndarray:
    """Returns POINTS of the indices below a number, evenly spread, with the first and the last; or all of them."""
    return np.linspace(0, count - 1, POINTS).astype(int) if count > POINTS else np.arange(count)


def rows_of_costs(rows: pd.DataFrame, targets: list[float]) -> np.ndarray:
    """Returns the labels of the records from which costs to reach targets are computed.

    These are the first at each target, and on each axis the last before it, from which it is said how far records are
    apart.

    Args:
        rows: in their order, with a column `number`.
        targets: that numbers reach from below, in ascending order.
    """
    first = np.unique(np.searchsorted(np.maximum.accumulate(rows["number"].to_numpy(float)), targets))
    first = first[first < len(rows)]
    stay = [first]
    for axis in AXES.values():
        values = rows[axis].to_numpy(float)
        order = np.argsort(values, kind="stable")
        before = np.searchsorted(values[order], values[first]) - 1
        stay.append(order[before[before >= 0]])
    return rows.index.to_numpy()[np.concatenate(stay)]


def rows_of_trajectory(records: pd.DataFrame) -> np.ndarray:
    """Returns the labels of the records of the Fisher measures around EPOCH_FRACTIONS, and of the last one."""
    rows = records[records[["C_K", "L_K"]].notna().all(axis=1)]
    after = np.searchsorted(rows["epoch"].to_numpy(float), np.array(EPOCH_FRACTIONS) * records["epoch"].max())
    return rows.index.to_numpy()[np.clip([*after, *(after - 1), len(rows) - 1], 0, len(rows) - 1)]


def sizes_of_epochs(records: pd.DataFrame) -> pd.Series:
    """Returns for each training record the batch size of its epoch, of which the last batch may be smaller."""
    sizes = records["batch_size"].dropna()
    epochs = records.loc[sizes.index, "epoch"]
    inside = epochs % 1 != 0
    of_epochs = (sizes[inside] if inside.any() else sizes).groupby(np.ceil(epochs)).max()
    return np.ceil(epochs).map(of_epochs).reindex(records.index)


def with_running_means(records: pd.DataFrame) -> pd.DataFrame:
    """Returns records with running means in the place of training values, as curves show them."""
    is_training, steps = records["kind"] == "train", records["step"]
    smoothed: dict[str, pd.Series] = {}
    for name in records:
        values = pd.to_numeric(records.loc[is_training, name], errors="coerce").dropna()
        values = values[~steps[values.index].duplicated(keep="last")]
        if len(values) and name not in NOT_SMOOTHED and not str(name).endswith("seconds"):
            means = pd.Series(running_mean(values.to_numpy()), values.index)
            smoothed[str(name)] = records[name].where(~is_training, means.reindex(records.index))
    return records.assign(**smoothed)
