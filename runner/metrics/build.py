"""The metrics of a run, from its configuration."""

import torch
from omegaconf import DictConfig
from torch import nn

from ..config.contracts import complete_each
from ..config.instantiate import construct_each, find
from ..objectives.loss import Loss
from ..records.logger import AXIS_KEYS
from ..system.errors import UserError
from .accuracy import Ranking, TopAccuracy
from .metric import Metric
from .rmse import RMSE

OURS = f"{__package__}."
# values of rows that are no metrics
FIGURES_OF_RUNS = ("curves", "losses", "fisher", "path", "range_test")  # names of files, as those of arrays are
RESERVED = (*AXIS_KEYS, "loss", "checkpoint", "run", *FIGURES_OF_RUNS)


def build_metrics(
    config: DictConfig, num_classes: int | None, loss: Loss, device: torch.device | str
) -> dict[str, Metric]:
    """Returns the metrics of an evaluation by name.

    Where the configuration names none of ours, those that suit the data come first: top1 and top5 of classes, rmse of
    numbers.

    Args:
        config: of the run.
        num_classes: of the data; None where targets are numbers.
        loss: of the run, which defines probabilities.
        device: of the batches.

    Raises:
        UserError: a metric cannot be built, needs classes where there are none, or has the name of another value.
    """
    nodes = config.get("metric") or {}
    metrics = default_metrics(num_classes, loss)
    for name, node in nodes.items():
        if name in RESERVED:
            raise UserError(f"metric.{name}: is the name of another value or figure of a run; give another name")
        if num_classes is None and "_target_" not in nodes and _needs_classes(node, name):
            raise UserError(f"metric={name}: needs classes, and the targets are numbers; give metric=[rmse]")
    chosen = complete_each(construct_each(config, "metric", num_classes=num_classes, loss=loss), Metric, "metric")
    if any(str(node["_target_"]).startswith(OURS) for node in nodes.values()):
        metrics = {}
    metrics |= chosen
    ranking = Ranking()
    for metric in metrics.values():
        if isinstance(metric, TopAccuracy):
            metric.ranking = ranking
        if isinstance(metric, nn.Module):
            metric.to(device)
            for part in metric.modules():
                if hasattr(part, "distributed_available_fn"):
                    part.distributed_available_fn = _never  # type: ignore[assignment]
    return metrics


def _never() -> bool:
    """Returns False: metrics of torchmetrics see whole sets, also on several processes, and need no sums over them."""
    return False


def _needs_classes(node: DictConfig, name: str) -> bool:
    return getattr(find(node, f"metric.{name}"), "needs_classes", False)


def default_metrics(num_classes: int | None, loss: Loss | None = None) -> dict[str, Metric]:
    """Returns the metrics that suit the data: top1 and top5 of classes, rmse of numbers."""
    return {"rmse": RMSE(loss=loss)} if num_classes is None else {"top1": TopAccuracy(1), "top5": TopAccuracy(5)}
