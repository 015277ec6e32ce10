"""Batches of a GPU, which are prepared while it still makes the steps before."""

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from trainopt.data import Batch

from ...state.run import Run

BESIDE_ON = ("cuda",)  # types of devices
AHEAD = 4  # steps that the host may be ahead of the device: each has a batch in memory


def batches_of(run: Run) -> Iterator[Batch]:
    """Yields the batches of a run from its position on."""
    return beside_steps(run.batches(), run.device) if run.device.type in BESIDE_ON else run.batches()


def beside_steps(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yields the same batches, which are read and augmented on a stream of their own.

    The host is asked for a batch when it has begun the step before on the present stream; that step waits for nothing
    of the other stream, so the device does both at a time. Random numbers are drawn in the same order.

    Args:
        batches: are made when they are asked for.
        device: a GPU.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))  # on which the data was stored
    begun: deque[torch.cuda.Event] = deque()
    while True:
        if len(begun) == AHEAD:
            begun.popleft().synchronize()
        with torch.cuda.stream(side):
            batch = next(batches, None)
        if batch is None:
            return
        present = torch.cuda.current_stream(device)
        present.wait_stream(side)
        for value in batch:
            if isinstance(value, Tensor) and value.device.type == device.type:
                value.record_stream(present)  # so that its memory is not reused before the step is over
        event = torch.cuda.Event()
        event.record(present)
        begun.append(event)
        yield batch
