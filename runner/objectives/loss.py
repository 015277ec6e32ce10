"""The loss of outputs: of a batch, of each sample, and of a set; a class of ours, or a callable of the user."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy, deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class Loss(ABC):
    """A function of a network's outputs and of targets; a run minimises its mean over each batch.

    Attributes:
        term: its name in training rows.
        target: the class or function of the user that computes it; None: it is one of ours.
        gives_samples: whether `of_samples` is available.
        is_softmax: whether outputs are logits of a softmax; so it is taken of a loss of the user.
    """

    term: str = "objective"
    target: str | None = None
    gives_samples: bool = True
    is_softmax: bool = True

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch, a scalar with its graph."""

    @abstractmethod
    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,): as it is trained on, or as it is evaluated."""

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the probability of each class (B, classes): softmax.

        Raises:
            ValueError: outputs that are trained by this loss are no logits.
        """
        return outputs.softmax(1)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns what outputs (B, ...) predict of targets that are numbers: themselves."""
        return outputs

    def evaluated_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the sum over the samples of a batch, in evaluation, a scalar float64."""
        return self.of_samples(outputs, targets, training=False).sum(dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """Returns its state as tensors: a part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - most have no state
        """Goes on from what `state_dict` returned."""


def of_each(losses: Tensor) -> Tensor:
    """Returns the loss of each sample (B,), the mean of its elements, from losses (B, ...)."""
    return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


def aligned(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns outputs in the shape of real-valued targets where both have as many elements; else as they are.

    A network with one output returns (B, 1), and its targets are (B,): a difference of the two would be (B, B).
    """
    reshapes = (
        targets.is_floating_point()
        and outputs.shape != targets.shape
        and len(outputs) == len(targets)
        and outputs.numel() == targets.numel()
    )
    return outputs.reshape(targets.shape) if reshapes else outputs


def comparable(outputs: Tensor, targets: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """Returns outputs and targets of one shape and one type, float32 or wider.

    Classes (B,) become vectors that are 1 at the class and 0 elsewhere, as in Hui and Belkin 2021 (arXiv 2006.07322).

    Args:
        outputs: (B, ...).
        targets: classes, their probabilities, or numbers.
        num_classes: None where integers are numbers, too.

    Raises:
        ValueError: the shapes do not fit.
    """
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    if num_classes is not None and not targets.is_floating_point():
        targets = one_hot(targets, outputs.shape[1]).movedim(-1, 1)
    targets = targets.to(dtype)
    outputs = aligned(outputs, targets).to(dtype)
    if outputs.shape != targets.shape:
        shapes = " and ".join("x".join(map(str, t.shape[1:])) or "1" for t in (outputs, targets))
        raise ValueError(f"outputs and targets of a sample have different shapes, {shapes}")
    return outputs, targets


class NoLoss(ValueError):
    """What a callable returns is no loss."""


class OwnLoss(Loss):
    """A callable of outputs and targets as a loss.

    Args:
        function: returns a scalar, the mean over the batch, or the losses of the samples (B,). One of torch's, or
            another with `reduction`, as argument or as attribute, gives both. A module is used on the device.
        device: of outputs and targets.
        target: its name, as it was typed.

    Raises:
        ValueError: it sums over the batch, or has parameters, which nothing would train.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device | str = "cpu", target: str | None = None):
        self.target = target
        if isinstance(function, nn.Module):
            if next(function.parameters(), None) is not None:
                raise ValueError("has parameters, which nothing would train; they belong into the model")
            function.to(device)
        if getattr(function, "reduction", None) == "sum" or getattr(function, "keywords", {}).get("reduction") == "sum":
            raise ValueError("reduction=sum: the loss of a batch must be a mean; leave it out")
        self.function = function
        self._unreduced = unreduced(function)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over a batch, a scalar with its graph."""
        loss = self._computed(self.function, outputs, targets)
        return loss if loss.dim() == 0 else of_each(loss).mean()

    def of_samples(self, outputs: Tensor, targets: Tensor, training: bool = True) -> Tensor:
        """Returns the loss of each sample (B,); ValueError where the function returns a scalar only."""
        loss = self._computed(self._unreduced, outputs, targets)
        if loss.dim() == 0:
            raise ValueError("returns a scalar, and not the loss of each sample")
        return of_each(loss)

    def evaluated_sum(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the sum over the samples of a batch, float64; a scalar counts as their mean."""
        loss = self._computed(self._unreduced, outputs, targets)
        return loss.double() * len(outputs) if loss.dim() == 0 else of_each(loss).sum(dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """Returns the buffers of a module, as means that it updates."""
        return dict(self.function.state_dict()) if isinstance(self.function, nn.Module) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` returned."""
        if isinstance(self.function, nn.Module):
            self.function.load_state_dict(state)

    def try_out(self, outputs: Tensor, targets: Tensor) -> None:
        """Computes the loss of some samples, so that `gives_samples` is known; ValueError where it returns no loss."""
        with torch.enable_grad():
            loss = self(outputs.detach().requires_grad_(), targets)
        if not loss.requires_grad:
            raise NoLoss("returns a loss without its graph; compute it from the outputs without detach, item or numpy")
        with torch.random.fork_rng(devices=[]):
            twice = self._computed(deepcopy(self.function), torch.cat([outputs] * 2), torch.cat([targets] * 2))
        if loss != 0 and twice.dim() == 0 and torch.isclose(twice, 2 * loss, rtol=1e-4):
            raise NoLoss("sums over a batch; return its mean, or the loss of each sample")
        self.gives_samples = self._computed(self._unreduced, outputs, targets).dim() > 0

    def _computed(self, function: Callable[..., Any], outputs: Tensor, targets: Tensor) -> Tensor:
        loss = function(outputs, targets)
        if not isinstance(loss, Tensor) or (loss.dim() > 0 and len(loss) != len(outputs)):
            what = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise NoLoss(f"must return a tensor, a scalar or (B,), and returns {what}")
        return loss


def unreduced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the form of a loss that returns a loss for each element, where it has one; else the loss as it is."""
    if isinstance(getattr(function, "reduction", None), str):
        function = copy(function)
        function.reduction = "none"  # type: ignore[attr-defined]
    elif not isinstance(function, nn.Module) and "reduction" in inspect.signature(function).parameters:
        function = partial(function, reduction="none")
    return function
