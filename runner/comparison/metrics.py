"""The metrics by which runs are compared, their targets, and the axes of their curves. Needs no pandas."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite, nan
from typing import Any, NamedTuple

from ..records.metrics import POSITION, direction
from ..system.display import metric_form
from ..system.errors import UserError, continued, nearest


class Metric(NamedTuple):
    """A metric of a run: its column in the summaries, its label, and whether more is better (None: unknown)."""

    column: str
    label: str
    more_is_better: bool | None
    form: str = ".2f"


METRICS = {
    "final_top1": Metric("final.top1", "final top-1 (%)", True),
    "final_top5": Metric("final.top5", "final top-5 (%)", True),
    "final_loss": Metric("final.loss", "final loss", False, ".4f"),
    "best_top1": Metric("best_top1.value", "best top-1 (%)", True),
    "best_top5": Metric("best_top5.value", "best top-5 (%)", True),
    "lowest_loss": Metric("lowest_loss.value", "lowest loss", False, ".4f"),
    "train_seconds": Metric("train_seconds", "training time (s)", False, ".1f"),
}
SECONDS_RULE = "Seconds depend on the machine and on what else ran on it; runs of one sweep may have run side by side."
NON_NEGATIVE_LOSSES = {"cross_entropy", "bce", "mse"}  # of summaries; any other loss may be negative


def metrics_of(
    columns: Iterable[str], directions: Mapping[str, Any], best: str | None, best_on: str | None = None
) -> dict[str, Metric]:
    """Returns METRICS, and those of the configurations: final values, test values at the best validation, the best.

    Args:
        columns: of the summaries.
        directions: whether more is better, by the names of metrics.
        best: the name of the metric that selects the best weights, if that is the same in all runs.
        best_on: the set that it is taken on, if that is the same in all runs.

    >>> metrics_of(["final.rmse", "final.shifted.top1"], {"rmse": False}, "rmse", "validation")["best_rmse"]
    Metric(column='best.value', label='best validation rmse', more_is_better=False, form='.4g')
    """
    metrics = dict(METRICS)
    starts = {"final": "final", "selected": "selected test"}
    for column in columns:
        first, _, name = column.partition(".")
        kind, _, of_set = name.rpartition(".")
        if first not in starts or name in ("", *POSITION) or column in [metric.column for metric in METRICS.values()]:
            continue
        label, form, unit = metric_form(of_set)
        start = f"{first} {kind}" if kind else starts[first]
        text = f"{start} {label}{f' ({unit.strip()})' if unit else ''}"
        form = METRICS["final_loss"].form if column == "selected.loss" else form
        metrics[f"{first}_{name.replace('.', '_')}"] = Metric(column, text, direction(of_set, directions), form)
    if best is not None and f"best_{best}" not in metrics and best != "loss":
        label, form, unit = metric_form(best)
        text = f"best {label}{f' ({unit.strip()})' if unit else ''}"
        metrics[f"best_{best}"] = Metric("best.value", text, direction(best, directions), form)
    if best_on is not None:
        for name, metric in metrics.items():
            first, _, rest = metric.label.partition(" ")
            if first in ("best", "lowest"):
                metrics[name] = metric._replace(label=f"{first} {best_on} {rest}")
    return metrics


def value_bounds(label: str, losses: Iterable[str]) -> tuple[float, float]:
    """Returns the lowest and the highest value that a metric can have, at which intervals of its mean end.

    Args:
        label: of the metric.
        losses: that the runs were trained with.

    >>> value_bounds("final top-1 (%)", []), value_bounds("training time (s)", [])
    ((0.0, 100.0), (0.0, inf))
    >>> value_bounds("final loss", ["mse"]), value_bounds("final loss", ["value"])
    ((0.0, inf), (-inf, inf))
    """
    if label.endswith("(%)"):
        return 0.0, 100.0
    is_loss = "loss" in label.split() and NON_NEGATIVE_LOSSES.issuperset(losses)
    return 0.0 if is_loss or label.endswith((" (s)", "rmse")) else -inf, inf


def find_metric(name: str, metrics: Mapping[str, Metric]) -> str:
    """Returns the name of a metric: as it is, or of its final value; UserError where there is none."""
    names = [candidate for candidate in (name, f"final_{name}") if candidate in metrics]
    if not names and name in TARGETS:
        raise UserError(f"--metric {name}: is in no summary; --target {name}=VALUE compares the cost to reach a value")
    if not names:
        known = ", ".join(metrics)
        raise UserError(continued(f"--metric {name}: no such metric{nearest(name, metrics)}", f"there are {known}"))
    return names[0]


# axes of curves, and units of the cost to reach a target: columns of the metrics
AXES = {
    "steps": "step",
    "epochs": "epoch",
    "samples": "samples",
    "gradients": "gradient_equivalents",
    "seconds": "train_seconds",
}


PROBE = "training_loss"  # the name of the diagnostic whose loss may be a target


class TargetMetric(NamedTuple):
    """A metric that may have a target: where its values are.

    Attributes:
        kind: of the records that have it; None: evaluations on the set that best values come from.
        column: of the records.
        label: of it.
        records: what one of the records is called.
        needs: what a run has none of that has no such records.
        interval: the key that says how far the records are apart.
    """

    kind: str | None
    column: str
    label: str
    records: str
    needs: str
    interval: str


_PROBED = f"records of probe=[{PROBE}], which measures this loss"
TARGETS = {
    "top1": TargetMetric(None, "top1", "top-1 accuracy", "evaluation", "accuracy", "evaluate_every"),
    "loss": TargetMetric(None, "loss", "loss", "evaluation", "evaluations", "evaluate_every"),
    "train_loss": TargetMetric("train", "total", "batch loss", "training record", "training records", "log_every"),
    "training_loss": TargetMetric("probe", "loss", "training loss", "measurement", _PROBED, f"probe.{PROBE}.every"),
    "raw_training_loss": TargetMetric(
        *("probe", "raw_loss", "raw training loss", "measurement"),
        f"{_PROBED} of the weights themselves, with averaging",
        f"probe.{PROBE}.every",
    ),
}  # what --target may be of


@dataclass(frozen=True)
class Target:
    """A value to which the cost is compared.

    Attributes:
        value: an accuracy in percent, to be reached from below, or a loss, from above.
        metric: one of TARGETS.
    """

    value: float
    metric: str = "top1"

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Reads an accuracy in percent, or METRIC=VALUE; UserError where it is none.

        >>> str(Target.parse("97.5")), str(Target.parse("training_loss=0.00086"))
        ('97.5 %', 'training loss 0.00086')
        """
        metric, is_named, number = text.rpartition("=")
        metric = metric if is_named else "top1"
        if metric not in TARGETS:
            problem = f"--target {text}: {metric}: no such metric{nearest(metric, TARGETS)}"
            raise UserError(continued(problem, f"there are {', '.join(TARGETS)}"))
        try:
            value = float(number.removesuffix("%") if metric == "top1" else number)
        except ValueError:
            value = nan
        if metric == "top1" and not 0 < value <= 100:
            raise UserError(f"--target {text}: must be an accuracy in percent, or a loss as loss=0.05")
        if not isfinite(value):
            raise UserError(f"--target {text}: must be a number, as {metric}=0.05")
        return cls(value, metric)

    @property
    def more_is_better(self) -> bool:
        """Whether it is reached from below."""
        return self.metric == "top1"

    def __str__(self) -> str:
        """Returns the value with its unit, or behind the name of the loss."""
        return f"{self.value:g} %" if self.metric == "top1" else f"{TARGETS[self.metric].label} {self.value:g}"


def cost_form(axis: str) -> str:
    """Returns the format of costs in the unit of an axis: those that are counted are whole."""
    return ",.0f" if axis in ("steps", "samples", "gradients") else ".2f"
