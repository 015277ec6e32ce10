"""Networks that torch.compile compiles."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from trainopt.models import LastLayer
from trainopt.optimizers.compat_torch import around_compilation

from ...state.run import Run


def compiled(network: nn.Module, mode: bool | str, notes: list[str]) -> Any:
    """Returns the compiled form of a network; where the backbone is frozen, only the head is compiled.

    Torch stores what its compiler makes, and the next run of a sweep reads it there.

    Args:
        network: of a run.
        mode: of torch.compile; True: its default.
        notes: get a line that says where.
    """
    name = mode if isinstance(mode, str) else None
    form: Any = network
    if isinstance(network, LastLayer):
        network.head.compile(mode=name)
    else:
        form = torch.compile(network, mode=name)
    folder = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # torch sets it where nobody has
    notes.append(f"compiled code is stored in {folder} for further runs" if folder else "the network is compiled")
    return form


@contextmanager
def compilation_on_clock(run: Run) -> Iterator[None]:
    """Lets the time of compilation be on a clock of its own, `compile`, where the network of a run is compiled."""
    if not run.compiled:
        yield
        return
    clock = ExitStack()
    with clock, around_compilation(lambda: clock.enter_context(run.clocks.running("compile")), clock.close):
        yield
