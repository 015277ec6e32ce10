"""Exact evaluation: every sample of a set counts once."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainopt.data import Source

from .objective import reported, returns_loss


class Abandoned(Exception):
    """An evaluation was stopped before its end."""


def never() -> bool:
    """Returns False: the evaluation is not to stop."""
    return False


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Sets a network to evaluation mode while entered; afterwards every layer has the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def predictions(
    forward: Callable[[Tensor], Any],
    source: Source,
    batch_size: int,
    autocast: str | None = None,
    stop: Callable[[], object] = never,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (logits (B, classes) float32, targets (B,)) of every sample once, in order.

    Args:
        forward: returns logits (B, classes), or a tuple that begins with them; its mode is the caller's choice.
        source: the samples.
        batch_size: samples a batch.
        autocast: a device type to run the forward pass in bfloat16 on, or None.
        stop: called before each batch; where it returns true, the evaluation ends.

    Raises:
        Abandoned: `stop` returned true.
    """
    for inputs, targets in source.ordered(batch_size):
        if stop():
            raise Abandoned
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=autocast is not None):
            output = forward(inputs)
        yield (output[0] if isinstance(output, tuple) else output).float(), targets


@torch.no_grad()
def evaluate(
    network: nn.Module,
    forward: Callable[[Tensor], Any],
    source: Source,
    batch_size: int,
    autocast: str | None = None,
    stop: Callable[[], object] = never,
) -> dict[str, Any]:
    """Returns mean cross-entropy and top-1 and top-5 accuracy (percent) over a set, in evaluation mode.

    With fewer than six classes, top-5 is 100. Of a network that returns its loss, the loss and its report are returned.

    Args:
        network: in evaluation mode meanwhile; afterwards its layers have the modes that they had.
        forward: the network, or its compiled form.
        source: the samples.
        batch_size: samples a batch; apart from rounding, results do not depend on it.
        autocast: as in `predictions`.
        stop: as in `predictions`.

    Raises:
        Abandoned: `stop` returned true.
    """
    loss = torch.zeros((), dtype=torch.float64)
    top1 = torch.zeros((), dtype=torch.int64)
    top5 = torch.zeros((), dtype=torch.int64)
    with evaluation_mode(network):
        if returns_loss(network):
            return _value(network, forward, source, stop)
        for logits, targets in predictions(forward, source, batch_size, autocast, stop):
            loss = loss + cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == targets[:, None]
            top1 = top1 + best[:, 0].sum()
            top5 = top5 + best.any(1).sum()
    count = len(source)
    return {"loss": loss.item() / count, "top1": 100 * top1.item() / count, "top5": 100 * top5.item() / count}


def _value(
    network: nn.Module, forward: Callable[[Tensor], Tensor], source: Source, stop: Callable[[], object]
) -> dict[str, Any]:
    if stop():
        raise Abandoned
    inputs, _ = next(source.ordered(1))  # which the loss does not depend on
    return {"loss": forward(inputs).item(), **reported(network)}


def accuracies(batches: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Returns the top-1 accuracy of each batch (logits (B, classes), targets (B,)), in percent.

    Where targets are probabilities (B, classes), as with mixup, it is the mean probability of the predicted classes.
    Batches of one size are compared together: for small ones that takes a tenth of the time.
    """
    by_size: dict[int, list[int]] = {}
    for index, (_, targets) in enumerate(batches):
        by_size.setdefault(len(targets), []).append(index)
    percentages = [0.0] * len(batches)
    for size, indices in by_size.items():
        logits, targets = (torch.stack([batches[i][part] for i in indices]) for part in (0, 1))
        classes = logits.argmax(2)
        if targets.is_floating_point():
            probabilities = targets.gather(2, classes[:, :, None])[:, :, 0].tolist()
            sums = [math.fsum(row) for row in probabilities]  # whatever batches are stacked with it
        else:
            sums = (classes == targets).sum(1).tolist()
        for index, right in zip(indices, sums, strict=True):
            percentages[index] = 100 * right / size
    return percentages
