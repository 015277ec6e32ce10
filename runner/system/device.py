"""The device of a run, and its numerics."""

import ctypes
import os
import sys

import torch

from .errors import UserError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h


def choose_device(name: str) -> torch.device:
    """Returns the device that `auto`, `cpu`, `cuda` or `cuda:N` names; UserError where there is none.

    A GPU becomes the current one, as pinned memory and the like are of that.
    """
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
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
