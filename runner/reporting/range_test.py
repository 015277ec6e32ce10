"""The learning-rate range test: bounds for a cyclical learning rate, and accuracy and loss vs. learning rate.

Smith 2017 (arXiv 1506.01186), section 3.3, and Mandatelli 2018, section 3.1, increase the learning rate during a
short training. They read off, by eye, the learning rate at which accuracy begins to rise, and that at which it "slows,
becomes ragged, or starts to fall"; `read_bounds` defines both. The loss is read beside the accuracy, as the learning
rate finders of fastai and Lightning do: it says earlier that training gets worse.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..records.metrics import Record, read_metrics
from ..records.run_folder import read_config
from .style import SET_COLOURS, needs_log_scale, plot_set, save_png, style_axes

SIGNIFICANT = 6.0  # standard errors of a difference; pure noise gives differences of four between two averages
EQUAL = 2.5  # standard errors within which two averages are equal
RISE, FALL = 0.1, 0.05  # of the range of the averages: a smaller rise, a smaller fall from the best, is none
STILL_BEST = 0.02  # of that range: an average so near to the best is as good
MIN_EVALUATIONS = 20  # on the validation set, for bounds to be read from it
MIN_POINTS = 10  # for bounds to be read at all
ROUNDING = 1e-9  # of the largest average: a smaller range is none
SECOND_DIFFERENCE = np.sqrt(12 / np.pi)  # mean |x - 2y + z| of independent standard normal numbers
WORST_SHOWN = 4.0  # times the first loss: the figure shows no larger one

# What is said of a curve.
RISES = {"accuracy": "accuracy rises", "loss": "loss falls"}
NEVER_BETTER = {"accuracy": "accuracy never rises", "loss": "loss never falls"}
NEVER_WORSE = {"accuracy": "accuracy never falls", "loss": "loss never rises"}
BEGINS = {
    "low": {"accuracy": "accuracy begins to rise", "loss": "loss begins to fall"},
    "high": {"accuracy": "accuracy begins to fall", "loss": "loss begins to rise"},
}


class Reading(NamedTuple):
    """What a curve says: the learning rates at which it begins to rise and to fall, or None where it does not."""

    low: float | None = None
    high: float | None = None
    rises_at_once: bool = False


def read_bounds(rates: np.ndarray, accuracy: np.ndarray, loss: np.ndarray | None = None) -> dict[str, Any]:
    """Returns the learning rates `low` and `high` or None, with a note on each (`low_note`, `high_note`) or None.

    `low` is where accuracy begins to rise; where accuracy neither rises nor falls, where loss begins to fall. `high`
    is where accuracy begins to fall or loss to rise, whichever comes first; `low_by` and `high_by` name the curve.
    `read_curve` says how a curve is read. A loss counts as its logarithm if all are positive, and at most as the first
    average: how bad the end becomes is no matter.

    Without a rise, `low` is None; with neither rise nor fall, `high` is None too. With a rise and no fall, `high`
    is the highest learning rate of the test; with a rise at once, `low` is the lowest. Bounds have three digits.

    Args:
        rates: learning rates, increasing, of shape (n,).
        accuracy: in percent, of shape (n,); nan where it is unknown.
        loss: likewise; None: unknown.

    >>> rates = np.linspace(0.0, 1.0, 101)
    >>> bounds = read_bounds(rates, np.interp(rates, [0.2, 0.35, 0.7, 0.85], [10.0, 90.0, 90.0, 10.0]))
    >>> bounds["low"], bounds["high"]
    (0.21, 0.69)
    """
    curves = {"accuracy": accuracy, "loss": np.full(len(rates), np.nan) if loss is None else goodness(loss)}
    known = {name: np.isfinite(values) for name, values in curves.items()}
    counts = {name: int(mask.sum()) for name, mask in known.items()}
    if max(counts.values()) < MIN_POINTS:
        note = f"{counts['accuracy'] or counts['loss']} measurements are too few"
        return {"low": None, "low_note": note, "high": None, "high_note": note}
    readings = {
        name: read_curve(rates[known[name]], values[known[name]])
        for name, values in curves.items()
        if counts[name] >= MIN_POINTS
    }
    turning = [name for name, reading in readings.items() if (reading.low, reading.high) != (None, None)]
    name = (turning or list(readings))[0]
    low, highs = readings[name].low, {n: r.high for n, r in readings.items() if r.high is not None}
    bounds: dict[str, Any] = {"low": None if low is None else rounded(low), "low_note": None, "low_by": name}
    if low is None:
        bounds["low_note"] = NEVER_BETTER[name]
    elif readings[name].rises_at_once:
        bounds["low_note"] = f"the lowest learning rate of the test: {RISES[name]} at once"
    high_by = min(highs, key=highs.__getitem__, default=name)
    bounds |= {"high": None, "high_note": None, "high_by": high_by}
    if highs:
        bounds["high"] = rounded(highs[high_by])
    elif low is not None:
        bounds["high"] = rounded(rates[-1])
        bounds["high_note"] = f"the highest learning rate of the test: {NEVER_WORSE[name]}"
    else:
        bounds["high_note"] = NEVER_WORSE[name]
    return bounds


def goodness(loss: np.ndarray) -> np.ndarray:
    """Returns how good losses are, the higher the better, as `read_bounds` says; nan for those that are not finite."""
    known = np.isfinite(loss)
    values = np.full(len(loss), np.nan)
    if known.any():
        values[known] = -np.log(loss[known]) if (loss[known] > 0).all() else -loss[known]
        values[known] = np.maximum(values[known], values[known][: half_width(known.sum()) * 2 + 1].mean())
    return values


def half_width(count: int) -> int:
    """Returns k for averages over windows of 2 k + 1 of so many points: a twentieth."""
    return count // 40


def read_curve(rates: np.ndarray, values: np.ndarray) -> Reading:
    """Returns where a curve, the higher the better, begins to rise, and where it begins to fall after its highest.

    Values are averaged over windows of w points, a twentieth of all. Their noise is estimated from second
    differences, which a slow rise hardly changes, in windows of 2 w, as it changes along the curve:
    s = mean |a[k-1] - 2 a[k] + a[k+1]| / 1.954. The standard error of an average is e = s / sqrt(w), that of a
    difference sqrt(e1^2 + e2^2).

    Two averages differ significantly by 6 standard errors. A rise must also be a tenth of the range of all averages,
    a fall a twentieth. `low` is the last learning rate before the highest average with an average that is not above
    the first one, by 2.5 standard errors or a tenth of the range, whichever is more. `high` is the last one between
    the highest average and the first significant fall below it that is as good as the highest: by 2.5 standard errors
    or a fiftieth of the range.

    Args:
        rates: learning rates, increasing, of shape (n,).
        values: of shape (n,), finite.
    """
    half = half_width(len(rates))
    width = 2 * half + 1
    means, errors = moving_average(values, half), standard_errors(values, half)
    centres = rates[half : len(rates) - half]
    span, peak = np.ptp(means), int(means.argmax())
    if span <= ROUNDING * np.abs(means).max():
        return Reading()

    def differs(errors_of_both: np.ndarray, difference: np.ndarray, times: float, part: float) -> np.ndarray:
        return difference > np.maximum(times * errors_of_both, part * span)

    low, high, at_once = None, None, False
    before, after = slice(0, peak), slice(peak, None)
    from_first, from_peak = np.hypot(errors[0], errors), np.hypot(errors[peak], errors)
    if peak and differs(from_peak[0], means[peak] - means[0], SIGNIFICANT, RISE):
        last = int(np.flatnonzero(~differs(from_first[before], means[before] - means[0], EQUAL, RISE))[-1])
        at_once = last < width
        low = float(rates[0] if at_once else centres[last])
    falls = np.flatnonzero(differs(from_peak[after], means[peak] - means[after], SIGNIFICANT, FALL))
    if len(falls):
        after = slice(peak, peak + int(falls[0]))
        best = ~differs(from_peak[after], means[peak] - means[after], EQUAL, STILL_BEST)
        high = float(centres[peak + int(np.flatnonzero(best)[-1])])
    return Reading(low, high, at_once)


def moving_average(values: np.ndarray, half: int) -> np.ndarray:
    """Returns the averages over windows of 2 half + 1 values, of shape (n - 2 half,)."""
    width = 2 * half + 1
    return np.convolve(values, np.ones(width) / width, mode="valid")


def standard_errors(values: np.ndarray, half: int) -> np.ndarray:
    """Returns the standard errors of `moving_average`, of shape (n - 2 half,)."""
    noise = np.abs(np.diff(values, 2)) / SECOND_DIFFERENCE
    around = 2 * half + 2
    noise = moving_average(np.pad(noise, around + 1, mode="reflect"), around)
    return noise[half : len(values) - half] / np.sqrt(2 * half + 1)


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
    rates, (accuracy, loss) = by_learning_rate(records, "validation", "top1", "loss")
    kind = "validation" if len(rates) >= MIN_EVALUATIONS else "train"
    if kind == "train":
        rates, (accuracy, loss) = by_learning_rate(records, "train", "top1", "total")
    return {**read_bounds(rates, accuracy, loss), "from": kind, "points": len(rates)}


def by_learning_rate(records: list[Record], kind: str, *keys: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the learning rates (n,) and the values (keys, n) in the records of a kind; nan where one is missing.

    The learning rate of an evaluation is that of the step before it; of an evaluation before the first step, that
    of the first step.
    """
    rates: dict[int, float | None] = {record["step"]: record["lr"] for record in records if record["kind"] == "train"}
    rates[0] = rates.get(1)
    rows = [
        (rates[record["step"]], *(record.get(key) for key in keys))
        for record in records
        if record["kind"] == kind and rates.get(record["step"]) is not None
    ]
    table = np.array(rows, dtype=float).reshape(-1, 1 + len(keys)).T
    return table[0], table[1:]


def draw_range_test(folder: Path, bounds: dict[str, Any]) -> Path:
    """Draws accuracy and loss vs. learning rate, with the bounds, into range_test.png, and returns its path."""
    from matplotlib.figure import Figure

    records, (config, _) = read_metrics(folder), read_config(folder)
    curves = {key: curves_of(records, key) for key in ("top1", "loss")}
    panels = {key: drawn for key, drawn in curves.items() if drawn}  # a test function has no accuracy
    figure = Figure(figsize=(10, 4.4) if len(panels) == 2 else (6, 4.4), layout="constrained")
    for axis, (key, drawn) in zip(figure.subplots(1, len(panels) or 1, squeeze=False)[0], panels.items(), strict=False):
        for kind, (rates, values) in drawn.items():
            plot_set(axis, kind, rates, values)
        for name, line in (("low", "--"), ("high", "-.")):
            if bounds[name] is not None:
                axis.axvline(bounds[name], color="0.25", linestyle=line, label=f"{name} {bounds[name]:g}")
        if config.schedule.get("mode") == "exponential":
            axis.set_xscale("log")
        if key == "loss":
            limit_losses(axis, [values for _, values in drawn.values()])
        axis.set_xlabel("learning rate")
        axis.set_ylabel("top-1 accuracy (%)" if key == "top1" else "loss")
        style_axes(axis)
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels) or 1, frameon=False, fontsize=9)
    return save_png(figure, folder / "range_test.png", f"learning-rate range test: {folder.name}")


def curves_of(records: list[Record], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the learning rates and the values of `top1` or `loss` by set, where there are any."""
    curves = {}
    for kind in SET_COLOURS:
        rates, (values,) = by_learning_rate(records, kind, "total" if (kind, key) == ("train", "loss") else key)
        known = np.isfinite(values)
        if known.any():
            curves[kind] = rates[known], values[known]
    return curves


def limit_losses(axis: Any, drawn: list[np.ndarray]) -> None:
    """Sets the scale of an axis of losses, which shows none far above the first one: an end that diverges."""
    losses = np.concatenate(drawn)
    worst = WORST_SHOWN * max(float(values[0]) for values in drawn)
    shown = losses[losses <= worst] if worst > 0 else losses
    is_log = needs_log_scale(shown) or (len(shown) < len(losses) and shown.min() > 0)
    if is_log:
        axis.set_yscale("log")
    if len(shown) < len(losses):
        lowest = float(shown.min())
        axis.set_ylim(lowest / 1.5 if is_log else lowest - 0.05 * (worst - lowest), worst)


def report_bounds(bounds: dict[str, Any]) -> list[str]:
    """Returns the lines that show the bounds of a range test; the last one can be typed as it is."""
    source = "the validation set" if bounds["from"] == "validation" else "training batches"
    lines = [f"range test, from {bounds['points']} points on {source}:"]
    for name in ("low", "high"):
        value, note = bounds[name], bounds[f"{name}_note"]
        what = BEGINS[name][bounds.get(f"{name}_by", "accuracy")]
        if value is None:
            lines.append(f"  {name}: none; {note}")
        else:
            lines.append(f"  {name}: {value:g}, {note}" if note else f"  {name}: {what} at {value:g}")
    low, high = bounds["low"], bounds["high"]
    if high is not None and (low is None or low < high):
        shown = "null" if low is None else f"{low:g}"
        lines.append(f"schedule=cyclic schedule.base_lr={shown} schedule.max_lr={high:g}")
    return lines
