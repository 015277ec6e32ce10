"""Is the loss a number? Asked before every update, without making a GPU wait."""

import math

import torch
from torch import Tensor


class Diverged(Exception):  # noqa: N818 - an outcome, not an error
    """The loss is not finite; carries it as `loss`."""

    def __init__(self, loss: float):
        super().__init__(f"the loss is {loss}")
        self.loss = loss


class FiniteCheck:
    """Reads the loss between the forward pass and the update.

    On CUDA the value is copied on a stream of its own as soon as the forward pass has computed it, so that
    reading it does not wait for the backward pass queued behind it.

    Args:
        device: where losses are computed.
    """

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._host = torch.empty((), pin_memory=True) if device.type == "cuda" else None

    def start(self, loss: Tensor) -> None:
        """Take note of a loss that was just computed."""
        self._loss = loss.detach()
        if self._stream is not None and self._host is not None:
            self._stream.wait_stream(torch.cuda.current_stream(loss.device))
            with torch.cuda.stream(self._stream):
                self._host.copy_(self._loss, non_blocking=True)

    def finish(self) -> None:
        """Raise Diverged if it is not finite."""
        if self._stream is not None and self._host is not None:
            self._stream.synchronize()
            value = self._host.item()
        else:
            value = self._loss.item()
        if not math.isfinite(value):
            raise Diverged(value)
