"""Where and how precisely to compute."""

import os

import torch

from .errors import UserError


def choose_device(wanted: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `cuda:N` means here; UserError where there is none."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda:0" if count else "cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    kind, _, number = wanted.partition(":")
    if kind != "cuda" or (":" in wanted and not number.isdigit()):
        raise UserError(f"device={wanted}: must be auto, cpu, cuda or cuda:N")
    if not count:
        raise UserError(f"device={wanted}: no CUDA GPU is visible here; use device=cpu or device=auto")
    if int(number or 0) >= count:
        raise UserError(f"device={wanted}: there are only cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", int(number or 0))


def set_numerics(precision: str, deterministic: bool, device: torch.device) -> None:
    """Set torch's global switches for a precision and for determinism; UserError if the device cannot do it."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError("precision=tf32: is for CUDA GPUs; on a CPU use precision=float32 or bf16")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    if deterministic != torch.are_deterministic_algorithms_enabled():  # setting it imports the compiler: 2 s
        torch.use_deterministic_algorithms(deterministic)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not deterministic


def describe(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_memory(device: torch.device) -> int:
    """Return the most memory in use so far, in bytes: on the GPU of tensors, on a CPU of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
