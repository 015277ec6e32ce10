"""What a range test of the learning rate found: bounds for a cyclical rate, and accuracy and loss as a picture.

Smith 2017 (arXiv 1506.01186), section 3.3, and Mandatelli 2018, section 3.1, let the rate rise during a short
training and read off the rate with which accuracy begins to rise, and that with which it begins to fall. They do
so by eye; `read_bounds` says how it is done here.
"""

from pathlib import Path
from typing import Any

import numpy as np

from ..records.metrics import read_metrics
from .style import COLOURS, FEW, is_wide, running_mean, saved, tidy

NAME = "range_test.png"

SHARE = 0.1  # of the range that accuracy covers: what is less is no change
CERTAIN = 8.0  # standard errors between two averages that chance alone does not make; it makes five or six
NEAR = 3.0  # standard errors within which two averages are the same
ENOUGH = 20  # evaluations on held-out images from which bounds are read from these
LEAST = 10  # points from which bounds are read at all
SECOND_DIFFERENCE = np.sqrt(12 / np.pi)  # mean |x - 2y + z| of independent normal numbers of deviation 1


def read_bounds(rates: np.ndarray, accuracy: np.ndarray) -> dict[str, Any]:
    """Returns the rates `low` and `high`, each with what there is to say of it (`low_note`, `high_note`) or None.

    Accuracy is averaged over a twentieth of its points, w of them, around each. Its noise is told from second
    differences, which a slow rise hardly touches: s = mean |a[k-1] - 2 a[k] + a[k+1]| / 1.954, so that the
    averages' standard error is e = s / sqrt(w).

    `low` is the last rate before the highest average with which accuracy was near the first one, `high` the last
    one, up to the lowest average that follows, with which it was near the highest. Near is what differs by no more
    than 3 e or a tenth of the range that the averages cover, whichever is more. Gains and losses count above 8 e.

    Where nothing is gained, `low` is None; where nothing is lost either, so is `high`. What was gained and is not
    lost has its bound at the edge of what was measured, and so has what is gained at once. Bounds have three
    digits.

    Args:
        rates: rising, of shape (n,).
        accuracy: in percent, of shape (n,).

    >>> rates = np.linspace(0.0, 1.0, 101)
    >>> bounds = read_bounds(rates, np.interp(rates, [0.2, 0.35, 0.7, 0.85], [10.0, 90.0, 90.0, 10.0]))
    >>> bounds["low"], bounds["high"]
    (0.21, 0.71)
    """
    if len(rates) < LEAST:
        note = f"{len(rates)} measurements of accuracy are too few to tell"
        return {"low": None, "low_note": note, "high": None, "high_note": note}
    half = len(rates) // 40
    width = 2 * half + 1
    means = np.convolve(accuracy, np.ones(width) / width, mode="valid")
    centres = rates[half : len(rates) - half]
    error = np.abs(np.diff(accuracy, 2)).mean() / SECOND_DIFFERENCE / np.sqrt(width)
    near = max(NEAR * error, SHARE * np.ptp(means))
    counts = max(CERTAIN * error, near)
    peak = int(means.argmax())
    before, after = means[:peak], means[peak : peak + int(means[peak:].argmin()) + 1]
    rises, falls = means[peak] - means[0] > counts, after[0] - after[-1] > counts
    found: dict[str, Any] = {"low": None, "low_note": None, "high": None, "high_note": None}
    if not rises:
        found["low_note"] = "accuracy never rises"
    else:
        last = int(np.flatnonzero(before <= means[0] + near)[-1])
        at_once = last < width
        found["low"] = rounded(rates[0] if at_once else centres[last])
        found["low_note"] = "the lowest rate that was measured: accuracy rises at once" if at_once else None
    if falls:
        found["high"] = rounded(centres[peak + int(np.flatnonzero(after >= means[peak] - near)[-1])])
    elif rises:
        found["high"] = rounded(rates[-1])
        found["high_note"] = "the highest rate that was measured: accuracy never falls"
    else:
        found["high_note"] = "accuracy never falls"
    return found


def rounded(value: float) -> float:
    """Returns a number with three digits.

    >>> rounded(0.0123456)
    0.0123
    """
    return float(f"{value:.3g}")


def summarise_range_test(folder: Path) -> dict[str, Any]:
    """Returns the bounds that a range test's rows show, where they were read from, and how many points there were.

    From batches of training images, or from held-out images where these were evaluated at least twenty times;
    never from the test set.
    """
    rows = read_metrics(folder)
    held_out, _ = over_rate(rows, "validation", "top1")
    kind = "validation" if len(held_out) >= ENOUGH else "train"
    rates, values = over_rate(rows, kind, "top1")
    return {**read_bounds(rates, values), "from": kind, "points": len(rates)}


def over_rate(rows: list[dict[str, Any]], kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the learning rates and what rows of a kind hold.

    Of an evaluation it is the rate of the step before it, or, where there is none, of the one after it.
    """
    rate_of: dict[int, float | None] = {row["step"]: row["lr"] for row in rows if row["kind"] == "train"}
    rate_of[0] = rate_of.get(1)
    found = [
        (rate_of[row["step"]], row[key])
        for row in rows
        if row["kind"] == kind and rate_of.get(row["step"]) is not None and row.get(key) is not None
    ]
    rates, values = np.array(found, dtype=float).reshape(-1, 2).T
    return rates, values


def draw_range_test(folder: Path, bounds: dict[str, Any]) -> Path:
    """Draws accuracy and loss over the rate, with the bounds, into range_test.png, and returns its path."""
    from matplotlib.figure import Figure

    from ..records.run_folder import read_config

    rows, (config, _) = read_metrics(folder), read_config(folder)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2)
    quantities = (("top1", "top1", "top-1 accuracy (%)"), ("total", "loss", "loss"))
    for axis, (train_key, key, label) in zip(axes, quantities, strict=True):
        drawn = []
        for kind, colour in COLOURS.items():
            rates, values = over_rate(rows, kind, train_key if kind == "train" else key)
            if not len(rates):
                continue
            drawn.append(values)
            if kind == "train":
                axis.plot(rates, values, color=colour, alpha=0.25, linewidth=0.8)
                axis.plot(rates, running_mean(values), color=colour, label="train (batches, running mean)")
            else:
                marker = "o" if len(rates) < FEW else None
                axis.plot(rates, values, color=colour, marker=marker, markersize=3, label=kind)
        for name, line in (("low", "--"), ("high", "-.")):
            if bounds[name] is not None:
                axis.axvline(bounds[name], color="0.25", linestyle=line, label=f"{name} {bounds[name]:g}")
        if config.schedule.get("mode") == "exponential":
            axis.set_xscale("log")
        if key == "loss" and drawn and is_wide(np.concatenate(drawn)):
            axis.set_yscale("log")
        axis.set_xlabel("learning rate")
        axis.set_ylabel(label)
        tidy(axis)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False, fontsize=9)
    return saved(figure, folder / NAME, folder.name)


def findings(bounds: dict[str, Any]) -> list[str]:
    """Returns what the screen says of a range test, the last line ready to be typed."""
    source = "held-out images" if bounds["from"] == "validation" else "training batches"
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
