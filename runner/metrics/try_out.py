"""Trying a loss and metrics out on some samples, so that what does not take them ends a run before it begins."""

import warnings
from collections.abc import Mapping

from omegaconf import DictConfig
from torch import Tensor
from torch.nn.functional import one_hot

from ..objectives.binary_cross_entropy import BinaryCrossEntropy
from ..objectives.cross_entropy import CrossEntropy
from ..objectives.loss import Loss, NoLoss, OwnLoss
from ..system.errors import UserError, one_line
from .accuracy import TopAccuracy
from .metric import Metric, values_of


def is_tried(loss: Loss, metrics: Mapping[str, Metric]) -> bool:
    """Returns whether a loss or a metric may not fit outputs and classes."""
    return type(loss) is not CrossEntropy or any(type(metric) is not TopAccuracy for metric in metrics.values())


def try_out_loss(config: DictConfig, loss: Loss, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
    """Raises UserError for a loss that does not take outputs and targets.

    Args:
        config: of the run.
        loss: of the run.
        outputs: of some samples (B, ...).
        targets: of the same.
        all_targets: of the training set.
    """
    name = config.objective["_target_"]
    try:
        if isinstance(loss, BinaryCrossEntropy) and targets.is_floating_point():
            check_fractions(all_targets)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Using a target size")  # the difference of each two would be taken
            (loss.try_out if isinstance(loss, OwnLoss) else loss)(outputs, targets)
    except NoLoss as error:
        raise UserError(f"objective: {name} {one_line(error)}") from error
    except Exception as error:
        raise UserError(f"objective: {name} does not take the outputs and targets ({one_line(error)})") from error
    for key in ("mixup", "cutmix"):
        if config.augmentation.get(key):
            try:
                loss(outputs, one_hot(targets, outputs.shape[1]).to(outputs.dtype))
            except Exception as error:
                raise UserError(
                    f"augmentation.{key}: targets are then probabilities (B, classes), which {name} does not take"
                    f" ({one_line(error)})"
                ) from error


def check_fractions(targets: Tensor) -> None:
    """Raises ValueError unless all targets are in [0, 1]."""
    low, high = float(targets.min()), float(targets.max())
    if low < 0 or high > 1:
        raise ValueError(f"needs targets in [0, 1], and these reach from {low:g} to {high:g}")


def try_out_metrics(metrics: Mapping[str, Metric], outputs: Tensor, targets: Tensor, selected: str) -> None:
    """Raises UserError for a metric that does not take outputs and targets, or that is selected and is no number."""
    for name, metric in metrics.items():
        try:
            metric.reset()
            metric.update(outputs, targets)
            with warnings.catch_warnings(action="ignore"):  # about classes that so few samples lack
                values = values_of(name, metric.compute())
            metric.reset()
        except Exception as error:
            raise UserError(f"metric.{name}: does not take the outputs and targets ({one_line(error)})") from error
        is_selected = selected == name or selected.startswith(f"{name}_")
        if is_selected and not isinstance(values.get(selected), int | float):
            raise UserError(f"selection_metric={selected}: is no number; metric.{name} returns {', '.join(values)}")
