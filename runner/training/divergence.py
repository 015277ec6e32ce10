"""Whether the loss is finite: checked before every update, without making a GPU wait."""

import torch
from torch import Tensor


class Diverged(Exception):
    """The loss is not finite, or the gradient, while the loss is.

    Args:
        loss: its value.
        gradient_norm: the gradient's, where it is known.
    """

    def __init__(self, loss: float, gradient_norm: float | None = None):
        norm = "" if gradient_norm is None else f", the norm of its gradient {gradient_norm}"
        super().__init__(f"the loss is {loss}{norm}")
        self.values = {"loss": str(loss)} | ({} if gradient_norm is None else {"gradient_norm": str(gradient_norm)})


class FiniteCheck:
    """Reads the loss between the forward pass and the update.

    Attributes:
        value: the loss that was read last.
    """

    value = float("nan")

    def begin(self, loss: Tensor) -> bool:
        """Checks a loss; returns whether `finish` must be called after the backward pass."""
        self.value = value = loss.item()
        if value - value != 0:  # infinite, or not a number
            raise Diverged(value)
        return False

    def finish(self) -> None:
        """Raises Diverged if the loss of `begin` is not finite."""


class CudaFiniteCheck(FiniteCheck):
    """Reads the loss on a GPU without waiting for the backward pass.

    A stream of its own copies the loss as soon as the forward pass has computed it; so the host can read it while the
    backward pass, which is queued by then, is running.

    Args:
        device: where losses are computed.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._host = torch.empty((), pin_memory=True)

    def begin(self, loss: Tensor) -> bool:
        """Begins to copy a loss; returns True."""
        self._source = loss.detach()  # kept until it is copied
        if self._host.dtype != loss.dtype:
            self._host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(loss.device))
        with torch.cuda.stream(self._stream):
            self._host.copy_(self._source, non_blocking=True)
        return True

    def finish(self) -> None:
        """Raises Diverged if the loss of `begin` is not finite."""
        self._stream.synchronize()
        super().begin(self._host)


def finite_check(device: torch.device) -> FiniteCheck:
    """Returns the check for a device."""
    return CudaFiniteCheck(device) if device.type == "cuda" else FiniteCheck()
