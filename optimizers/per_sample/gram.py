"""The Gram matrix of per-sample gradients of a model on a batch, in two definitions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .accumulator import GramSum
from .buffers import Buffers
from .recorder import GramRecorder

ENTRIES = 2**24  # of rows that stand in memory at a time


def gradient_gram(
    model: nn.Module, loss_function: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Any
) -> Tensor:
    """Returns G = J J^T (B, B), where row_i of J is B times sample i's part of the batch's gradient.

    The rows add up to B times the gradient of loss_function(model(inputs), targets), a mean over the batch.
    Without batch norm in training mode row_i is the gradient of sample i's loss; with it, it holds what sample i
    does to the losses of all through the statistics of the batch. The model stays in the mode that it is in. Its
    gradients and buffers, and the generators, are left as they were. Liao et al. 2018, section 3.

    Args:
        model: its parameters that require gradients are those of linear layers, convolutions, torch's attention,
            and batch, layer, group and instance norm, and all of them count.
        loss_function: (outputs, targets) -> a scalar, a mean over the batch.
        inputs: (B, ...).
        targets: what loss_function takes.

    Raises:
        ValueError: a trained parameter is one of another layer, which the message names.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.zeros(2, 1)
    >>> _ = nn.init.ones_(model.weight)
    >>> gradient_gram(model, nn.functional.mse_loss, x, y).tolist()  # rows 2 (w.x) x: (2, 0) and (42, 56)
    [[4.0, 84.0], [84.0, 4900.0]]
    """
    recorder = GramRecorder(model)
    with _left_alone(model, inputs.device), torch.enable_grad(), recorder.recording():
        loss = loss_function(model(inputs), targets)
        torch.autograd.grad(loss, _trained(model), allow_unused=True)
    return recorder.gram()


def own_loss_gram(model: nn.Module, losses: Callable[[], Tensor]) -> Tensor:
    """Returns G = J J^T (B, B), where row_i of J is the gradient of sample i's own loss.

    Batch norm in training mode makes that loss a function of the weights through the statistics of the batch as
    well; row_i is its gradient, and holds nothing of what sample i does to the losses of others. This takes B
    backward passes through one graph, or some times B where the rows of all parameters are too large for memory.
    Without it no layer is taken to mix samples, and one backward pass does, as in `gradient_gram`, for the same
    layers. Gradients, buffers and generators are left as they were.

    Args:
        model: the network; parameters that require gradients count.
        losses: makes one forward pass of the model and returns the loss of each sample, (B,).

    Raises:
        ValueError: as `gradient_gram`, where that is used.
    """
    params = _trained(model)
    with _left_alone(model, params[0].device), torch.enable_grad():
        if not _mixes_samples(model):
            recorder = GramRecorder(model)
            with recorder.recording():
                torch.autograd.grad(losses().mean(), params, allow_unused=True)
            return recorder.gram()
        found = losses()
        total = GramSum(len(found), torch.promote_types(found.dtype, torch.float32), found.device)
        for group in _groups(params, ENTRIES // len(found)):
            rows = torch.stack([_gradient(loss, group) for loss in found.unbind()])
            total.add(rows.to(total.dtype))
    return total.total()


def _gradient(loss: Tensor, params: list[Tensor]) -> Tensor:
    """Returns the gradient of a loss, whose graph stays, as one vector."""
    found = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return torch.cat([(p.new_zeros(p.shape) if g is None else g).flatten() for g, p in zip(found, params, strict=True)])


def _groups(params: list[Tensor], entries: int) -> Iterator[list[Tensor]]:
    """Yields parameters in groups that have at most so many entries together, or are one."""
    group: list[Tensor] = []
    for param in params:
        if group and sum(p.numel() for p in group) + param.numel() > entries:
            yield group
            group = []
        group.append(param)
    yield group


def _mixes_samples(model: nn.Module) -> bool:
    """Returns whether batch norm computes its statistics of the batch."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(m.training or m.running_mean is None for m in norms)


def _trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@contextmanager
def _left_alone(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Puts buffers and generators back at the end."""
    buffers = Buffers(model)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type="cuda" if device.type == "cpu" else device.type):
        try:
            yield
        finally:
            buffers.restore()
