"""Buffers of a network, and a copy of each to go back to."""

from typing import Any

from torch import Tensor, nn


class Buffers:
    """What layers remember beside their weights, as batch norm's running statistics: each tensor and a copy."""

    def __init__(self, network: nn.Module):
        self._kept: list[tuple[dict[str, Any], str, Tensor, Tensor]] = [
            (module._buffers, name, buffer, buffer.clone())
            for module in network.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def restore(self) -> None:
        """Puts them back; a layer that replaced a tensor gets the old one."""
        for place, name, buffer, copy in self._kept:
            place[name] = buffer
            buffer.copy_(copy)
