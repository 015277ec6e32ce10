"""Interleaved pairs: the way every figure here is measured."""

import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

# memory that a process was given stays with it (glibc), as in every loop that trains
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = perf_counter()
    function()
    return perf_counter() - began


def ratios(ours: Callable[[], float], peer: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Return the medians of ours, of the peer, and of their ratios pair by pair; each call returns its seconds.

    Which of the two goes first alternates; one pair before the first is not counted.
    """
    ours(), peer()
    rows = []
    for i in range(pairs):
        if i % 2:
            b, a = peer(), ours()
        else:
            a, b = ours(), peer()
        rows.append((a, b, a / b))
    a, b, ratio = (statistics.median(column) for column in zip(*rows, strict=True))
    return a, b, ratio


def report(name: str, ratio: float, bound: float, above: bool = False) -> bool:
    """Print a ratio beside its bound; say whether it is kept."""
    kept = ratio >= bound if above else ratio <= bound
    print(f"{name:<64} {ratio:7.3f}  ({'at least' if above else 'at most'} {bound:g}) {'' if kept else '  NOT KEPT'}")
    return kept


def resident(field: str) -> int:
    """Return a field of /proc/self/status in kB: VmRSS, memory in use, or VmHWM, the most so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def hardware() -> str:
    """Return what the figures were measured on."""
    import torch
    import torchvision

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    return (
        f"{cpu}, {torch.get_num_threads()} threads; Python {platform.python_version()},"
        f" torch {torch.__version__}, torchvision {torchvision.__version__}"
    )
