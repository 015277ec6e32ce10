"""Exact evaluation: every sample of a set counts once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainopt.data import Source

from ..distributed.ranks import ALONE, Ranks
from ..metrics.metric import Metric, values_of
from ..objectives.loss import Loss, aligned
from .objective import reported, returns_loss

SAMPLES = 16  # on which a loss and metrics of the user are tried out


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
    autocast: torch.dtype | None = None,
    stop: Callable[[], object] = never,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields (outputs (B, ...) float32, targets (B, ...)) of every sample once, in order.

    Args:
        forward: returns outputs, or a tuple that begins with them; its mode is the caller's choice.
        source: the samples.
        batch_size: samples a batch.
        autocast: the dtype that the forward pass runs in by autocast, or None.
        stop: called before each batch, or before as many as there are ranks; where it returns true, the evaluation
            ends.
        ranks: the processes, each of which computes whole batches, in turn; all get the outputs of all.

    Raises:
        Abandoned: `stop` returned true.
    """

    def outputs_of(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, autocast, enabled=autocast is not None):
            output = forward(inputs)
        return (output[0] if isinstance(output, tuple) else output).float()

    if ranks.size == 1:
        for inputs, targets in source.ordered(batch_size):
            if stop():
                raise Abandoned
            yield outputs_of(inputs), targets
        return
    batches = source.ordered(batch_size, ranks.rank, ranks.size)
    for _ in range(0, len(source), batch_size * ranks.size):
        if stop():
            raise Abandoned
        batch = next(batches, None)
        inputs, targets = batch or next(source.ordered(batch_size))
        whole = outputs_of(inputs if batch else inputs[:1]), targets
        parts = (ranks.gather(values if batch else values[:0]).split(batch_size) for values in whole)
        yield from zip(*parts, strict=True)


def first_predictions(network: nn.Module, source: Source, autocast: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Returns the outputs of a network, in evaluation mode, for the first `SAMPLES` samples, and their targets.

    Args:
        network: not compiled, which would take long for so few.
        source: the samples.
        autocast: as in `predictions`.
    """
    with evaluation_mode(network):
        outputs, targets = next(predictions(network, source, SAMPLES, autocast))
    return aligned(outputs, targets), targets


@torch.no_grad()
def evaluate(
    network: nn.Module,
    forward: Callable[[Tensor], Any],
    source: Source,
    batch_size: int,
    loss: Loss,
    metrics: Mapping[str, Metric],
    autocast: torch.dtype | None = None,
    stop: Callable[[], object] = never,
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Returns the mean `loss` over a set, in evaluation mode, and each metric by name: numbers and arrays.

    Of a network that returns its loss, the loss and its report are returned.

    Args:
        network: in evaluation mode meanwhile; afterwards its layers have the modes that they had.
        forward: the network, or its compiled form.
        source: the samples.
        batch_size: samples a batch; apart from rounding, results do not depend on it.
        loss: of outputs and targets.
        metrics: by name.
        autocast: as in `predictions`.
        stop: as in `predictions`.
        ranks: as in `predictions`; the result is the same for any number of them.

    Raises:
        Abandoned: `stop` returned true.
    """
    total = torch.zeros((), dtype=torch.float64)
    with evaluation_mode(network):
        if returns_loss(network):
            return _value(network, forward, source, stop)
        for metric in metrics.values():
            metric.reset()
        for raw_outputs, targets in predictions(forward, source, batch_size, autocast, stop, ranks):
            outputs = aligned(raw_outputs, targets)
            total = total + loss.evaluated_sum(outputs, targets)
            for metric in metrics.values():
                metric.update(outputs, targets)
    row = {"loss": total.item() / len(source)}
    for name, metric in metrics.items():
        row |= values_of(name, metric.compute())
    return row


def _value(
    network: nn.Module, forward: Callable[[Tensor], Tensor], source: Source, stop: Callable[[], object]
) -> dict[str, Any]:
    if stop():
        raise Abandoned
    inputs, _ = next(source.ordered(1))  # which the loss does not depend on
    return {"loss": forward(inputs).item(), **reported(network)}
