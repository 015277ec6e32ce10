"""CUDA graphs: work that a GPU repeats without the host, on the same memory."""

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

T = TypeVar("T")
WARM_UPS = 3  # as torch's own make_graphed_callables: libraries choose their kernels in them


class Capture(Protocol):
    """Records what a function asks of a GPU."""

    @abstractmethod
    def warm_up(self, function: Callable[[], object]) -> None:
        """Calls a function some times, where it will be recorded.

        Raises:
            RuntimeError: the function reads a number, or does otherwise what the host must wait for.
        """

    @abstractmethod
    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Calls a function, which computes nothing yet.

        Returns:
            Its result, and what computes it: each time anew, into the same tensors, from the present content of the
            tensors that the function took.

        Raises:
            RuntimeError: what the function does cannot be recorded.
        """


class CudaCapture(Capture):
    """Records CUDA graphs, on a stream of their own and in memory that they share.

    Sharing is safe as one graph runs at a time, and nobody needs its results after another one.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, function: Callable[[], object]) -> None:
        """Calls a function `WARM_UPS` times, and once so that what waits is an error.

        An error while a graph is recorded would leave the generator of random numbers unusable.
        """
        present = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(present)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function()
            with waiting_refused():
                function()
        present.wait_stream(self._stream)

    def record(self, function: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Records a graph; other threads, as those that load data, may use the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return result, graph.replay


@contextmanager
def waiting_refused() -> Iterator[None]:
    """While entered, what waits for a GPU raises RuntimeError."""
    mode = torch.cuda.get_sync_debug_mode()
    try:
        set_sync_debug_mode("error")
        yield
    finally:
        set_sync_debug_mode(mode)


def set_sync_debug_mode(mode: int | str) -> None:
    """Sets torch's mode without its warning, once in a process, that this is a prototype."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)
