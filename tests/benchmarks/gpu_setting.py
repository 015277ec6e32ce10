"""Where and how large the measurements of gpu.py are, and what comes of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from pairs import ratios


@dataclass(frozen=True)
class Setting:
    """Where and how large measurements are."""

    device: torch.device
    smoke: bool

    def fewer(self, count: int) -> int:
        """Returns how many steps, calls or pairs to make of so many."""
        return min(count, 2) if self.smoke else count

    def batch(self, size: int) -> int:
        return min(size, 4) if self.smoke else size

    def seconds(self, function: Callable[[], object], calls: int = 1) -> float:
        """Returns the time of a call, with all the work that it leaves to the device."""
        self.wait()
        began = perf_counter()
        for _ in range(calls):
            function()
        self.wait()
        return (perf_counter() - began) / calls

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def captured(self, step: Callable[[], object]) -> Callable[[], object]:
        """Returns the replay of a step as a CUDA graph, after three steps; on a CPU the step itself."""
        if self.device.type != "cuda":
            step()
            return step
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


@dataclass(frozen=True)
class Figure:
    """A result: a ratio or a rate, and its bound if there is one."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def holds(self) -> bool:
        return self.bound is None or self.value <= self.bound


Piece = tuple[str, Callable[[], Iterator[Figure]]]  # its name, and what measures it


def ratio_of(setting: Setting, ours: Callable[[], object], peer: Callable[[], object], calls: int) -> float:
    """Returns the median of the ratios of interleaved pairs, of so many calls each."""
    pairs = setting.fewer(5)
    return ratios(lambda: setting.seconds(ours, calls), lambda: setting.seconds(peer, calls), pairs)[2]
