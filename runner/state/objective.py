"""The loss that is minimised: a sum of named terms."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainopt.optimizers import Regularizer

from ..objectives.cross_entropy import CrossEntropy
from ..objectives.loss import Loss, aligned

Output = Tensor | dict[str, Any]


@dataclass(eq=False)
class Objective:
    """The loss of the outputs, the loss of auxiliary outputs where the network has such, and regularizers.

    Args:
        network: returns outputs (B, ...), or (outputs, auxiliary outputs) while training; or, with the attribute
            `returns_loss = True`, the loss itself: it is then the term `value`, in place of the loss, and the
            network's method `report()`, if any, returns further values for rows.
        regularizers: by name, each with its parameters.
        loss: of outputs and targets.
        auxiliary_weight: weight of the loss of auxiliary outputs.
        autocast: the dtype that the forward pass runs in by autocast, or None.
        regularizer_share: factor on the regularizers.
    """

    network: Callable[[Tensor], Any]
    regularizers: dict[str, tuple[Regularizer, list[Tensor]]]
    loss: Loss = field(default_factory=CrossEntropy)
    auxiliary_weight: float = 0.4
    autocast: torch.dtype | None = None
    regularizer_share: float = 1.0  # of several processes, whose totals add up, one counts the regularizers

    def __post_init__(self) -> None:
        self.returns_loss = returns_loss(self.network)
        self._before_forward: Callable[[Tensor], None] | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor], Output]:
        """Returns the total (a scalar with its graph), its terms by name, and the outputs (B, ...).

        Targets are what the loss takes, as classes (B,) int64, probabilities of the classes (B, classes), or numbers
        (B, ...). Of a network that returns the loss, its report at the same point takes the place of the outputs.
        """
        if self.autocast:
            with torch.autocast(inputs.device.type, self.autocast):
                total, terms, outputs = self._of_data(inputs, targets)
        else:
            total, terms, outputs = self._of_data(inputs, targets)
        for name, (penalty, params) in self.regularizers.items():
            term = terms[name] = penalty(params)
            total = total + (term if self.regularizer_share == 1 else self.regularizer_share * term)
        return total, terms, outputs

    def of_samples(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of each sample (B,); their mean is the total without the regularizers."""
        with torch.autocast(inputs.device.type, self.autocast, enabled=self.autocast is not None):
            outputs = self._forward(inputs)
            outputs, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
            losses = self.loss.of_samples(aligned(outputs, targets), targets)
            if auxiliary is not None:
                losses = losses + self.auxiliary_weight * self.loss.of_samples(aligned(auxiliary, targets), targets)
        return losses

    @contextmanager
    def observed(self, before_forward: Callable[[Tensor], None]) -> Iterator[None]:
        """Calls a function with the inputs of each forward pass, before the pass, while entered."""
        self._before_forward = before_forward
        try:
            yield
        finally:
            self._before_forward = None

    def _forward(self, inputs: Tensor) -> Any:
        if self._before_forward is not None:
            self._before_forward(inputs)
        return self.network(inputs)

    def _of_data(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor], Output]:
        outputs = self._forward(inputs)
        if self.returns_loss:
            return outputs, {"value": outputs}, reported(self.network)
        outputs, auxiliary = outputs if isinstance(outputs, tuple) else (outputs, None)
        outputs = aligned(outputs, targets)
        loss = self.loss(outputs, targets)
        if auxiliary is None:
            return loss, {self.loss.term: loss}, outputs
        extra = self.auxiliary_weight * self.loss(aligned(auxiliary, targets), targets)
        return loss + extra, {self.loss.term: loss, "auxiliary": extra}, outputs


def returns_loss(network: Any) -> bool:
    """Returns whether the output of a network is the loss itself, as that of a test function."""
    return getattr(network, "returns_loss", False)


def reported(network: Any) -> dict[str, Any]:
    """Returns the report of a network that returns its loss, at its present point, for rows of metrics.jsonl."""
    return network.report() if hasattr(network, "report") else {}


def covered_parameters(network: nn.Module, regularizer: Regularizer) -> list[Tensor]:
    """Returns the trainable parameters that a regularizer covers."""
    return [
        parameter
        for layer in network.modules()
        for name, parameter in layer.named_parameters(recurse=False)
        if parameter.requires_grad and regularizer.covers(layer, name)
    ]
