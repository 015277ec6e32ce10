"""Whether loss, gradient and weights are finite: checked before every update, without making a GPU wait."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from trainopt.optimizers.compat_torch import record_non_finite


class Diverged(FloatingPointError):
    """What makes the next update is not finite.

    Args:
        values: the loss, its `gradient_norm`, or `weights`, by name.
    """

    def __init__(self, **values: float):
        super().__init__(", ".join(f"{name} is {value}" for name, value in values.items()))
        self.values = {name: str(value) for name, value in values.items()}


class FiniteCheck:
    """Reads the loss between the forward pass and the update, and looks at the gradient before it.

    Args:
        device: where losses and gradients are computed.

    Attributes:
        value: the loss that was read last.
    """

    value = float("nan")

    def __init__(self, device: torch.device):
        self._found, self._one = torch.zeros((), device=device), torch.ones((), device=device)

    def begin(self, loss: Tensor) -> bool:
        """Checks a loss; returns whether `finish` must be called after the backward pass."""
        self.value = value = loss.item()
        if value - value != 0:  # infinite, or not a number
            raise Diverged(loss=value)
        return False

    def finish(self) -> None:
        """Raises Diverged if the loss of `begin` is not finite."""

    def look_at(self, gradients: list[Tensor]) -> None:
        """Checks the gradients of the loss.

        Raises:
            Diverged: an element is not finite.
        """
        self._record(gradients)
        if self._found.item():
            raise Diverged(loss=self.value, gradient_norm=non_finite_norm(gradients))

    def _record(self, gradients: list[Tensor]) -> None:
        if any(g.requires_grad or g.is_sparse for g in gradients):
            gradients = [g.detach().coalesce().values() if g.is_sparse else g.detach().clone() for g in gradients]
        record_non_finite(gradients, self._found, self._one)


class CudaFiniteCheck(FiniteCheck):
    """Reads the loss on a GPU without waiting for the backward pass.

    A stream of its own copies the loss as soon as the forward pass has computed it; so the host can read it while the
    backward pass, which is queued by then, is running. What was recorded of the gradient before comes with it: to read
    that before its own update, the host would have to wait for the backward pass.

    Args:
        device: where losses are computed.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._stream = torch.cuda.Stream(device)
        self._host, self._host_found = torch.empty((), pin_memory=True), torch.zeros((), pin_memory=True)

    def begin(self, loss: Tensor) -> bool:
        """Begins to copy a loss; returns True."""
        self._source = loss.detach()  # kept until it is copied
        if self._host.dtype != loss.dtype:
            self._host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(loss.device))
        with torch.cuda.stream(self._stream):
            self._host.copy_(self._source, non_blocking=True)
            self._host_found.copy_(self._found, non_blocking=True)
        return True

    def finish(self) -> None:
        """Raises Diverged if the loss of `begin` is not finite, or the gradient before it was not."""
        self._stream.synchronize()
        if self._host_found.item():
            raise Diverged(loss=self.value, gradient_norm=math.nan)
        super().begin(self._host)

    def look_at(self, gradients: list[Tensor]) -> None:
        """Records whether the gradients are finite; the next `finish` raises Diverged if they are not."""
        self._record(gradients)


def finite_check(device: torch.device) -> FiniteCheck:
    """Returns the check for a device."""
    return CudaFiniteCheck(device) if device.type == "cuda" else FiniteCheck(device)


def non_finite_norm(gradients: Iterable[Tensor]) -> float:
    """Returns the norm of gradients of which an element is not finite: nan or infinity."""
    return math.nan if any(g.isnan().any() for g in gradients) else math.inf


def check_weights(parameters: Iterable[Tensor]) -> None:
    """Raises Diverged if a weight is not finite, as after an update that is too large for the weights' type."""
    if are_finite(parameters):
        return
    raise Diverged(weights=non_finite_norm(parameters))


def are_finite(parameters: Iterable[Tensor]) -> bool:
    """Returns whether all elements of some parameters are finite."""
    checks = [p.detach().isfinite().all() for p in parameters]
    return not checks or bool(torch.stack(checks).all())
