"""The metric of the validation set that says which weights of a run are the best."""

from collections.abc import Mapping
from typing import NamedTuple

from ..records.metrics import owner_of
from ..system.errors import UserError, continued, nearest
from .metric import Metric

LOSS = "loss"  # a value of every evaluation, which is no metric of the configuration


class Selection(NamedTuple):
    """The metric that best.pt and early stopping follow, and its direction."""

    metric: str = "top1"
    higher_is_better: bool = True

    @property
    def sign(self) -> int:
        """Of an improvement."""
        return 1 if self.higher_is_better else -1


def directions(metrics: Mapping[str, Metric]) -> dict[str, bool]:
    """Returns whether higher is better, for the loss and for each metric that has a direction."""
    known = {name: metric.higher_is_better for name, metric in metrics.items()}
    return {LOSS: False, **{name: value for name, value in known.items() if value is not None}}


def select(metrics: Mapping[str, Metric], name: str | None) -> Selection:
    """Returns the metric of a name with its direction.

    Args:
        metrics: of the run.
        name: of a metric, of a value `NAME_key` of a metric that returns several, or `loss`; None: top1 or, without
            that, the first metric that has a direction; the loss where none has one.

    Raises:
        UserError: there is no such metric, or it has no direction.
    """
    directed = [key for key, metric in metrics.items() if metric.higher_is_better is not None]
    if name is None:
        name = "top1" if "top1" in metrics else next(iter(directed), LOSS)
    if name == LOSS:
        return Selection(LOSS, False)
    owner = owner_of(name, metrics)
    known = ", ".join([*directed, LOSS])
    if owner is None:
        problem = f"selection_metric={name}: the run has no such metric{nearest(name, [*metrics, LOSS])}"
        raise UserError(continued(problem, f"known are {known}"))
    direction = metrics[owner].higher_is_better
    if direction is None:
        raise UserError(
            f"selection_metric={name}: {type(metrics[owner]).__name__} does not say whether higher is better, as by"
            f" higher_is_better = True; known are {known}"
        )
    return Selection(name, direction)
