"""The Gram matrix of per-sample gradients of a model on a batch, by two definitions."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..compat_torch import BATCH_NORM
from ..shard import WHOLE, Shard
from ..vectors import flatten
from .accumulator import GramAccumulator
from .buffers import Buffers
from .form_benchmark import FormBenchmark
from .recorder import GramRecorder

ENTRIES = 2**24  # of rows that are in memory at a time


def gradient_gram(
    model: nn.Module, loss_function: Callable[[Any, Any], Tensor], inputs: Tensor, targets: Any
) -> Tensor:
    """Returns G = J J^T (B, B), where row_i of J is B times sample i's part of the batch's gradient.

    The rows add up to B times the gradient of loss_function(model(inputs), targets), a mean over the batch.
    Without batch norm in training mode row_i is the gradient of sample i's loss; with it, row_i contains sample i's
    effect on the losses of all, through the statistics of the batch. The model's mode, gradients and buffers, and
    the generators of random numbers, are left unchanged. Liao et al. 2018, section 3.

    Args:
        model: its parameters that require gradients are those of linear layers, embeddings, convolutions, torch's
            attention, and batch, layer, group and instance norm, and all of them count.
        loss_function: (outputs, targets) -> a scalar, a mean over the batch.
        inputs: (B, ...).
        targets: the second argument of loss_function.

    Raises:
        ValueError: a trained parameter is one of another layer, which the message names.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> x, y = torch.tensor([[1.0, 0.0], [3.0, 4.0]]), torch.zeros(2, 1)
    >>> _ = nn.init.ones_(model.weight)
    >>> gradient_gram(model, nn.functional.mse_loss, x, y).tolist()  # rows 2 (w.x) x: (2, 0) and (42, 56)
    [[4.0, 84.0], [84.0, 4900.0]]
    """
    recorder = GramRecorder(model)
    with _unchanged(model, inputs.device), torch.enable_grad():
        recorder.record(lambda: loss_function(model(inputs.detach()), targets))
    return recorder.gram()


def own_loss_gram(
    model: nn.Module,
    losses: Callable[[], Tensor],
    max_entries: int = ENTRIES,
    benchmark: FormBenchmark | None = None,
    shard: Shard = WHOLE,
) -> Tensor:
    """Returns G = J J^T (B, B), where row_i of J is the gradient of sample i's own loss.

    With batch norm in training mode that loss depends on the weights through the statistics of the batch as well;
    row_i is its gradient, without sample i's effect on the losses of others. This takes B backward passes through
    one graph, or a multiple of B where the rows of all parameters are too large for memory. Without batch norm in
    training mode no layer is assumed to mix samples, and one backward pass is enough, as in `gradient_gram`, for the
    same layers. Gradients, buffers and generators are left unchanged.

    Args:
        model: the network; parameters that require gradients count.
        losses: makes one forward pass of the model and returns the loss of each sample, (B,).
        max_entries: of rows in memory at a time, in the B backward passes.
        benchmark: chooses the form of each layer's term, in one backward pass; None: a fixed table does.
        shard: the part of the batch that the losses are of; a whole one where a layer mixes samples.

    Raises:
        ValueError: as in `gradient_gram`, without batch norm in training mode.
    """
    params = _trained(model)
    with _unchanged(model, params[0].device), torch.enable_grad():
        if not mixes_samples(model):
            recorder = GramRecorder(model, benchmark=benchmark, shard=shard)
            recorder.record(lambda: (values := losses()).sum() / shard.span(len(values))[1])
            return recorder.gram()
        values = losses()
        accumulator = GramAccumulator(len(values), torch.promote_types(values.dtype, torch.float32), values.device)
        for group in _groups(params, max_entries // len(values)):
            rows = torch.stack([_gradient(loss, group) for loss in values.unbind()])
            accumulator.add(rows.to(accumulator.dtype))
    return accumulator.total()


def _gradient(loss: Tensor, params: list[Tensor]) -> Tensor:
    """Returns the gradient of a loss as one vector, and retains the graph."""
    return flatten(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True, materialize_grads=True))


def _groups(params: list[Tensor], entries: int) -> Iterator[list[Tensor]]:
    """Yields groups of parameters with at most `entries` entries; a larger parameter is a group of its own."""
    group: list[Tensor] = []
    for param in params:
        if group and sum(p.numel() for p in group) + param.numel() > entries:
            yield group
            group = []
        group.append(param)
    yield group


def mixes_samples(model: nn.Module) -> bool:
    """Returns whether a batch norm uses the statistics of the batch."""
    norms = (m for m in model.modules() if isinstance(m, BATCH_NORM))
    return any(m.training or m.running_mean is None for m in norms)


def _trained(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


@contextmanager
def _unchanged(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores buffers and generators at the end."""
    buffers = Buffers(model)
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type="cuda" if device.type == "cpu" else device.type):
        try:
            yield
        finally:
            buffers.restore()
