"""A trial of an optimizer's training and evaluation modes, before a run depends on them."""

import copy
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from ..config.instantiate import construct
from ..system.errors import UserError, one_line


def check_modes(config: DictConfig, device: torch.device) -> None:
    """Raises UserError if `eval()` and `train()` of the optimizer fail after steps, or change its state.

    They are tried on a small layer; random number generators stay as they are.
    """
    with torch.random.fork_rng(devices=[]):
        layer = nn.Linear(4, 4).to(device)
        optimizer = construct(config.optimizer, "optimizer", list(layer.parameters()), network=layer)

        def closure() -> Tensor:
            layer.zero_grad()
            loss = layer(torch.ones(2, 4, device=device)).square().sum()
            if not getattr(optimizer, "needs_graph", False):
                loss.backward()
            return loss

        name = type(optimizer).__name__
        try:
            optimizer.train()
            for _ in range(2):
                optimizer.step(closure)
            before = copy.deepcopy(optimizer.state_dict())
            optimizer.eval()
            optimizer.train()
        except Exception as error:
            raise UserError(f"optimizer: {name} fails in eval() after its steps ({one_line(error)})") from error
    if not equal(before, optimizer.state_dict()):  # so that evaluations would change the run
        raise UserError(f"optimizer: eval() and train() of {name} change its state, which they must leave")


def equal(one: Any, other: Any) -> bool:
    """Returns whether two states are the same, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other
