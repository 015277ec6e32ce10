"""The metric of a search's trials, read from the records of their runs."""

import math
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from ..config.instantiate import find
from ..records.metrics import METRICS_FILE, owner_of, read_metrics
from ..system.errors import UserError, continued, nearest
from ..system.files import shown

HIGHER_IS_BETTER = {"loss": False, "top1": True, "top5": True, "rmse": False}  # what runs have without being asked


@dataclass(frozen=True)
class MetricName:
    """A metric as `validation_loss`: the kind of records, and the name in them."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "MetricName":
        """Reads a name; UserError where it is none.

        >>> MetricName.parse("validation_top1")
        MetricName(kind='validation', name='top1')
        """
        kind, _, name = text.partition("_")
        if not name or (kind == "train" and name != "loss"):
            raise UserError(f"hydra.sweeper.metric={text}: give SET_NAME, as validation_loss, or train_loss")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}_{self.name}"


def direction_of(metric: MetricName, config: DictConfig) -> str:
    """Returns whether a metric is to minimize or to maximize.

    Args:
        metric: which one.
        config: of a run; says which class computes it.

    Raises:
        UserError: runs have no such metric, or its class does not say whether higher is better.
    """
    nodes = config.get("metric") or {}
    owner = owner_of(metric.name, nodes)
    is_higher: bool | None
    if owner is None:
        known = [*HIGHER_IS_BETTER, *nodes]
        if metric.name not in HIGHER_IS_BETTER:
            problem = f"hydra.sweeper.metric={metric}: runs have no {metric.name}{nearest(metric.name, known)}"
            raise UserError(continued(problem, f"there are {', '.join(known)}"))
        is_higher = HIGHER_IS_BETTER[metric.name]
    else:
        is_higher = getattr(find(nodes[owner], f"metric.{owner}"), "higher_is_better", None)
    if is_higher is None:
        text = f"{owner} does not say whether higher is better; give hydra.sweeper.direction=minimize or maximize"
        raise UserError(f"hydra.sweeper.metric={metric}: {text}")
    return "maximize" if is_higher else "minimize"


def metric_value(run: Path, metric: MetricName, evaluation: int | None) -> float:
    """Returns a metric of a run; not a number where it is not finite.

    Args:
        run: its folder.
        metric: which one; `train_loss` is the mean of `total` over the records since the evaluation before.
        evaluation: the number of the evaluation, where the one before the first step has number 0; None: the last.

    Raises:
        UserError: the run has no such metric, or its records cannot be read.
    """
    try:
        records = read_metrics(run)
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(run / METRICS_FILE)}: is missing or damaged; remove the folder") from error
    kind = "test" if metric.kind == "train" else metric.kind
    rows = [record for record in records if record["kind"] == kind]
    if not rows:
        kinds = sorted({record["kind"] for record in records} & {"test", "validation"})
        raise UserError(f"hydra.sweeper.metric={metric}: runs have no {kind} set; they have {', '.join(kinds)}")
    position = len(rows) - 1 if evaluation is None else min(evaluation, len(rows) - 1)
    if metric.kind == "train":
        steps = (rows[max(0, position - 1)]["step"], rows[position]["step"])
        totals = [r["total"] for r in records if r["kind"] == "train" and steps[0] < r["step"] <= steps[1]]
        value = None if not totals or None in totals else sum(totals) / len(totals)
    else:
        if metric.name not in rows[position]:
            known = [name for name, number in rows[position].items() if isinstance(number, float)]
            raise UserError(f"hydra.sweeper.metric={metric}: runs have no {metric.name}{nearest(metric.name, known)}")
        value = rows[position][metric.name]
    return float(value) if value is not None and math.isfinite(value) else math.nan
