"""Interleaved pairs, memory of processes, and bounds: how all benchmarks measure and report."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time

# a process keeps its memory (glibc), as in every loop that trains
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}


def seconds(function: Callable[[], object]) -> float:
    """Returns how long a call takes."""
    began = perf_counter()
    function()
    return perf_counter() - began


def processor_seconds(function: Callable[[], object]) -> float:
    """Returns the processor time of a call, of all threads: what else runs on the machine changes it less."""
    began = process_time()
    function()
    return process_time() - began


def ratios(ours: Callable[[], float], peer: Callable[[], float], pairs: int) -> tuple[float, float, float]:
    """Returns the medians of ours, of the peer, and of their ratios pair by pair; each call returns its seconds.

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
    """Prints a ratio beside its bound; returns whether the bound holds."""
    holds = ratio >= bound if above else ratio <= bound
    print(f"{name:<64} {ratio:7.3f}  ({'at least' if above else 'at most'} {bound:g}) {'' if holds else '  NOT MET'}")
    return holds


def resident(field: str) -> int:
    """Returns a field of /proc/self/status in kB: VmRSS, memory in use, or VmHWM, the most so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field))


def peak_megabytes(*arguments: object) -> float:
    """Returns what this program prints when it is started with arguments for `growth`; see `start`."""
    command = [sys.executable, sys.argv[0], json.dumps(arguments)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def start(measure: Callable[[], bool], growth: Callable[..., None] | None = None) -> None:
    """Runs a benchmark as a program, in a process that keeps its memory; exits with 1 if a bound is exceeded.

    Args:
        measure: all of the benchmark; returns whether all bounds hold.
        growth: prints by how many MB its process grows. It is called in place of `measure` if the program has an
            argument, the JSON list of its arguments.
    """
    if growth is not None and len(sys.argv) == 2:
        growth(*json.loads(sys.argv[1]))
    elif "MALLOC_MMAP_MAX_" not in os.environ:
        raise SystemExit(subprocess.run([sys.executable, sys.argv[0]], env={**os.environ, **KEEP_MEMORY}).returncode)
    else:
        for variable in KEEP_MEMORY:  # not for the processes whose memory is measured
            os.environ.pop(variable)
        raise SystemExit(not measure())


def hardware() -> str:
    """Returns the hardware and the versions of the measurement."""
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
