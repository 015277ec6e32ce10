"""What tests of steps on a GPU need, and of steps that are replayed: a stand-in for CUDA graphs on a CPU."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from trainopt.runner.training.graphs.capture import Capture

READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__", "nonzero", "__array__"}


def on_gpu(test):
    """Marks a test that needs a GPU."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")(test))


class NoReads(TorchFunctionMode):
    """Refuses what makes the host wait for a number."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        return func(*args, **(kwargs or {}))


class StandIn(Capture):
    """What a CUDA graph demands and does: no reads, results always in the same memory, which a record leaves empty.

    Attributes:
        replays: how often each record was replayed.
    """

    def __init__(self):
        self.replays: list[int] = []

    def warm_up(self, function):
        """Calls the function."""
        function()

    def record(self, function):
        """Calls the function, and fills its results with what nobody may use."""
        with NoReads():
            computed = function()
        named = list(computed.tensors())
        shapes = [value.shape for _, value in named]
        for _, value in named:
            value.fill_(torch.nan)
        number = len(self.replays)
        self.replays.append(0)

        def replay():
            with NoReads():
                again = [value for _, value in function().tensors()]
            assert [value.shape for value in again] == shapes
            for (_, value), new in zip(named, again, strict=True):
                value.copy_(new)
            self.replays[number] += 1

        return computed, replay
