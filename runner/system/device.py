"""The device, its numerics, and its share among runs at a time."""

import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from .errors import UserError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu`, `cuda` or `cuda:N` names; UserError where there is none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and count:
        return torch.device("cuda", torch.cuda.current_device())
    if name in ("auto", "cpu"):
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind != "cuda" or (":" in name and not number.isdigit()):
        raise UserError(f"device={name}: must be auto, cpu, cuda or cuda:N")
    if not count:
        raise UserError(f"device={name}: no CUDA GPU is visible here; use device=cpu or device=auto")
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise UserError(f"device={name}: there are only cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", index)


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: str) -> int:
    """Returns the default number of runs at a time: one for each GPU, without GPUs one for each core."""
    gpus = 0 if device == "cpu" else torch.cuda.device_count()  # starts nothing on a GPU
    return gpus or cores()


@contextmanager
def shared_machine(workers: int, device: str) -> Iterator[None]:
    """Takes this run's part of a machine on which several train at a time.

    CPU cores are divided: torch's threads, and through joblib's variable the processes that read data. Where there
    are several GPUs, `auto` and `cuda` mean one that no other run has taken by this function; the run waits until
    there is one.

    Args:
        workers: number of runs at a time.
        device: the configuration's.
    """
    with ExitStack() as stack:
        if workers > 1:
            share = max(1, cores() // workers)
            torch.set_num_threads(share)
            os.environ["LOKY_MAX_CPU_COUNT"] = str(share)
            if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
                torch.cuda.set_device(stack.enter_context(free_gpu(torch.cuda.device_count())))
        yield


@contextmanager
def free_gpu(count: int) -> Iterator[int]:
    """Waits for a GPU that no other process holds by this function; holds it while entered. Yields its index."""
    import fcntl

    folder = Path(tempfile.gettempdir()) / f"trainopt-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = visible[:count] if visible else [str(index) for index in range(count)]
    while True:
        for index, name in enumerate(names):
            with open(folder / f"gpu-{name}", "w", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield index  # the system releases it when this process ends, however it does
                return
        time.sleep(0.2)


def set_numerics(precision: str, deterministic: bool, device: torch.device) -> None:
    """Sets torch's global switches for a precision and for determinism; UserError if the device lacks the precision."""
    if precision in ("tf32", "fp16") and device.type != "cuda":
        raise UserError(f"precision={precision}: is for CUDA GPUs; on a CPU use precision=float32 or bf16")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler: 2 s
        torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        keep_freed_memory()
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, for the next step.

    glibc returns large blocks to the system at once, and the system clears each page of the next allocation: up to
    half the time of a step on a CPU. Where a `MALLOC_…` variable is set, nothing is changed.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**26)):
            mallopt(option, value)


def describe_device(device: torch.device) -> str:
    """Returns the device as text, with its model or its number of threads."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory(device: torch.device) -> int:
    """Returns the peak memory so far in bytes: of tensors on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
