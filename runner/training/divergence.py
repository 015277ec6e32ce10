"""Is the loss a number? Asked before every update, without making a GPU wait."""

import torch
from torch import Tensor


class Diverged(Exception):
    """The loss is not finite; carries it as `loss`."""

    def __init__(self, loss: float):
        super().__init__(f"the loss is {loss}")
        self.loss = loss


class FiniteCheck:
    """Reads the loss between the forward pass and the update; `value` is the last that was read."""

    value = float("nan")

    def begin(self, loss: Tensor) -> bool:
        """Checks a loss that was just computed; say whether `finish` must be called after the backward pass."""
        self.value = value = loss.item()
        if value - value != 0:  # infinite, or not a number
            raise Diverged(value)
        return False

    def finish(self) -> None:
        """Raises Diverged if the loss given to `begin` is not finite."""


class CudaFiniteCheck(FiniteCheck):
    """The same on a GPU, without waiting for the backward pass.

    The loss is copied on a stream of its own as soon as the forward pass has computed it, so that reading it
    after the backward pass was queued does not wait for that.

    Args:
        device: where losses are computed.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)
        self._host = torch.empty((), pin_memory=True)

    def begin(self, loss: Tensor) -> bool:
        """Begins to copy a loss that was just computed."""
        self._source = loss.detach()  # kept until it is copied
        if self._host.dtype != loss.dtype:
            self._host = torch.empty((), dtype=loss.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(loss.device))
        with torch.cuda.stream(self._stream):
            self._host.copy_(self._source, non_blocking=True)
        return True

    def finish(self) -> None:
        """Raises Diverged if the loss given to `begin` is not finite."""
        self._stream.synchronize()
        super().begin(self._host)


def finite_check(device: torch.device) -> FiniteCheck:
    """Returns the check for a device."""
    return CudaFiniteCheck(device) if device.type == "cuda" else FiniteCheck()
