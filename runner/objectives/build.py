"""The loss of a run, from its configuration."""

import inspect

import torch
from omegaconf import DictConfig

from ..config.instantiate import bind, construct, find
from ..config.options import COMMON
from ..system.errors import UserError, one_line
from .loss import Loss, OwnLoss


def build_loss(config: DictConfig, num_classes: int | None, device: torch.device | str) -> Loss:
    """Returns the loss that a configuration names: a class of ours, or a class or a function of the user.

    Keys of a class are arguments of its constructor; those of a function are its arguments after outputs and targets.

    Args:
        config: of the run.
        num_classes: of the data; None where targets are numbers.
        device: of outputs and targets.

    Raises:
        UserError: it cannot be built, is no function of outputs and targets, or sums over a batch.
    """
    node, common = config.objective, COMMON["objective"]
    if inspect.isclass(find(node, "objective")):
        function = construct(node, "objective", common=common, num_classes=num_classes)
    else:
        function = bind(node, "objective", positional=2, common=common)
    if isinstance(function, Loss):
        if function.term == Loss.term:  # of the user
            function.target = str(node["_target_"])
        return function
    if not callable(function):
        raise UserError(f"objective: {type(function).__name__} is no function of outputs and targets")
    try:
        return OwnLoss(function, device, str(node["_target_"]))
    except ValueError as error:
        raise UserError(f"objective: {one_line(error)}") from error
