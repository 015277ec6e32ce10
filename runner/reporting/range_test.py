"""The learning-rate range test: bounds for a cyclical learning rate, and accuracy and loss vs. learning rate.

Smith 2017 (arXiv 1506.01186), section 3.3, and Mandatelli 2018, section 3.1, increase the learning rate during a
short training. They read off the learning rate at which accuracy begins to rise, and that at which it begins to
fall, by eye; `read_bounds` defines both.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..records.metrics import Record, read_metrics
from ..records.run_folder import read_config
from .style import SET_COLOURS, needs_log_scale, plot_set, save_png, style_axes

MIN_CHANGE = 0.1  # of the range of the average accuracy: a smaller difference is no change
SIGNIFICANT = 8.0  # standard errors; pure noise gives differences of five or six between two averages
EQUAL = 3.0  # standard errors within which two averages are equal
MIN_EVALUATIONS = 20  # on the validation set, for bounds to be read from it
MIN_POINTS = 10  # for bounds to be read at all
SECOND_DIFFERENCE = np.sqrt(12 / np.pi)  # mean |x - 2y + z| of independent standard normal numbers


def read_bounds(rates: np.ndarray, accuracy: np.ndarray) -> dict[str, Any]:
    """Returns the learning rates `low` and `high` or None, with a note on each (`low_note`, `high_note`) or None.

    Accuracy is averaged over windows of w points, a twentieth of all. Its noise is estimated from second
    differences, which a slow rise hardly changes: s = mean |a[k-1] - 2 a[k] + a[k+1]| / 1.954, so the standard
    error of an average is e = s / sqrt(w).

    Two averages are equal if they differ by at most 3 e or a tenth of the range of all averages, whichever is
    more. A rise or a fall counts above 8 e. `low` is the last learning rate before the highest average with an
    average equal to the first one. `high` is the last one up to the lowest average after the highest, with an
    average equal to the highest.

    Without a rise, `low` is None; with neither rise nor fall, `high` is None too. With a rise and no fall, `high`
    is the highest learning rate of the test; with a rise at once, `low` is the lowest. Bounds have three digits.

    Args:
        rates: learning rates, increasing, of shape (n,).
        accuracy: in percent, of shape (n,).

    >>> rates = np.linspace(0.0, 1.0, 101)
    >>> bounds = read_bounds(rates, np.interp(rates, [0.2, 0.35, 0.7, 0.85], [10.0, 90.0, 90.0, 10.0]))
    >>> bounds["low"], bounds["high"]
    (0.21, 0.71)
    """
    if len(rates) < MIN_POINTS:
        note = f"{len(rates)} measurements of accuracy are too few"
        return {"low": None, "low_note": note, "high": None, "high_note": note}
    half = len(rates) // 40
    width = 2 * half + 1
    means = np.convolve(accuracy, np.ones(width) / width, mode="valid")
    centres = rates[half : len(rates) - half]
    error = np.abs(np.diff(accuracy, 2)).mean() / SECOND_DIFFERENCE / np.sqrt(width)
    equal = max(EQUAL * error, MIN_CHANGE * np.ptp(means))
    significant = max(SIGNIFICANT * error, equal)
    peak = int(means.argmax())
    before, after = means[:peak], means[peak : peak + int(means[peak:].argmin()) + 1]
    rises, falls = means[peak] - means[0] > significant, after[0] - after[-1] > significant
    bounds: dict[str, Any] = {"low": None, "low_note": None, "high": None, "high_note": None}
    if not rises:
        bounds["low_note"] = "accuracy never rises"
    else:
        last = int(np.flatnonzero(before <= means[0] + equal)[-1])
        at_once = last < width
        bounds["low"] = rounded(rates[0] if at_once else centres[last])
        bounds["low_note"] = "the lowest learning rate of the test: accuracy rises at once" if at_once else None
    if falls:
        bounds["high"] = rounded(centres[peak + int(np.flatnonzero(after >= means[peak] - equal)[-1])])
    elif rises:
        bounds["high"] = rounded(rates[-1])
        bounds["high_note"] = "the highest learning rate of the test: accuracy never falls"
    else:
        bounds["high_note"] = "accuracy never falls"
    return bounds


def rounded(value: float) -> float:
    """Returns a number with three digits.

    >>> rounded(0.0123456)
    0.0123
    """
    return float(f"{value:.3g}")


def summarise_range_test(folder: Path) -> dict[str, Any]:
    """Returns the bounds of a range test, the set that they were read from, and the number of its points.

    That is the validation set where it was evaluated at least twenty times, otherwise the batches of the training
    set; never the test set.
    """
    records = read_metrics(folder)
    evaluated, _ = by_learning_rate(records, "validation", "top1")
    kind = "validation" if len(evaluated) >= MIN_EVALUATIONS else "train"
    rates, values = by_learning_rate(records, kind, "top1")
    return {**read_bounds(rates, values), "from": kind, "points": len(rates)}


def by_learning_rate(records: list[Record], kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the learning rates (n,) and the values (n,) of a key in the records of a kind.

    The learning rate of an evaluation is that of the step before it; of an evaluation before the first step, that
    of the first step.
    """
    rates: dict[int, float | None] = {record["step"]: record["lr"] for record in records if record["kind"] == "train"}
    rates[0] = rates.get(1)
    pairs = [
        (rates[record["step"]], record[key])
        for record in records
        if record["kind"] == kind and rates.get(record["step"]) is not None and record.get(key) is not None
    ]
    x, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return x, values


def draw_range_test(folder: Path, bounds: dict[str, Any]) -> Path:
    """Draws accuracy and loss vs. learning rate, with the bounds, into range_test.png, and returns its path."""
    from matplotlib.figure import Figure

    records, (config, _) = read_metrics(folder), read_config(folder)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    quantities = (("top1", "top1", "top-1 accuracy (%)"), ("total", "loss", "loss"))
    for axis, (train_key, key, label) in zip(axes, quantities, strict=True):
        drawn = []
        for kind in SET_COLOURS:
            rates, values = by_learning_rate(records, kind, train_key if kind == "train" else key)
            if len(rates):
                drawn.append(values)
                plot_set(axis, kind, rates, values)
        for name, line in (("low", "--"), ("high", "-.")):
            if bounds[name] is not None:
                axis.axvline(bounds[name], color="0.25", linestyle=line, label=f"{name} {bounds[name]:g}")
        if config.schedule.get("mode") == "exponential":
            axis.set_xscale("log")
        if key == "loss" and drawn and needs_log_scale(np.concatenate(drawn)):
            axis.set_yscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel(label)
        style_axes(axis)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False, fontsize=9)
    return save_png(figure, folder / "range_test.png", folder.name)


def report_bounds(bounds: dict[str, Any]) -> list[str]:
    """Returns the lines that show the bounds of a range test; the last one can be typed as it is."""
    source = "the validation set" if bounds["from"] == "validation" else "training batches"
    lines = [f"range test, from {bounds['points']} points on {source}:"]
    for name, what in (("low", "accuracy begins to rise at"), ("high", "accuracy begins to fall at")):
        value, note = bounds[name], bounds[f"{name}_note"]
        if value is None:
            lines.append(f"  {name}: none; {note}")
        else:
            lines.append(f"  {name}: {value:g}, {note}" if note else f"  {name}: {what} {value:g}")
    low, high = bounds["low"], bounds["high"]
    if high is not None and (low is None or low < high):
        shown = "null" if low is None else f"{low:g}"
        lines.append(f"schedule=cyclic schedule.base_lr={shown} schedule.max_lr={high:g}")
    return lines
