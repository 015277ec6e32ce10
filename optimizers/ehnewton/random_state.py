"""Random numbers that a step draws once more."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class RandomState:
    """The random number generators at the time of construction; inside `with`, that state is set again."""

    def __init__(self, params: Sequence[Tensor]):
        self._devices = sorted({p.device.index for p in params if p.device.type == "cuda"})
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]

    def __enter__(self) -> None:
        self._fork = torch.random.fork_rng(devices=self._devices)
        self._fork.__enter__()
        torch.set_rng_state(self._cpu)
        for device, state in zip(self._devices, self._cuda, strict=True):
            torch.cuda.set_rng_state(state, device)

    def __exit__(self, *error: Any) -> None:
        self._fork.__exit__(*error)
