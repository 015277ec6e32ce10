"""A snapshot of a network's buffers."""

from torch import Tensor, nn


class Buffers:
    """The state of layers beside their weights, as batch norm's running statistics, at the time of construction."""

    def __init__(self, network: nn.Module):
        self._copies: list[tuple[nn.Module, str, Tensor, Tensor]] = [
            (module, name, buffer, buffer.clone())
            for module in network.modules()
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        ]

    def restore(self) -> None:
        """Restores the values; a layer that replaced a tensor gets the old one."""
        for module, name, buffer, copy in self._copies:
            setattr(module, name, buffer)
            buffer.copy_(copy)
