"""Kernels for per-sample gradients on CPUs with matrix units, compiled at their first use.

`kernels.c` describes the computation. PyTorch has no operation for it: its convolutions use the matrix units for
bfloat16 only, with results in bfloat16. Singular values of batches of ResNet-8 and 20 are as exact as by PyTorch's
kernels in float32: within 5e-4 of those in float64, the smallest included.
"""

import contextlib
import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_suffix(".c")
UNITS = ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vbmi2", "avx512_bf16", "amx_tile", "amx_bf16")
FLAGS = (
    *("-O3", "-fopenmp", "-shared", "-fPIC"),
    *("-m" + unit.replace("amx_", "amx-").replace("_", "") for unit in UNITS),
)
COMPILER_TIMEOUT = 120  # s
MAX_SAMPLES = 1024  # every thread has a matrix (B, B)
Sizes = ctypes.c_long * 16  # the C structure Convolution


class Kernels:
    """The compiled functions.

    Args:
        path: of the library.

    Raises:
        OSError: it cannot be loaded, or the system does not let this process use the matrix units.
    """

    def __init__(self, path: Path):
        library = ctypes.CDLL(str(path))
        pointer, number = ctypes.c_void_p, ctypes.c_long
        self._convolution, self._norm = library.convolution_gram, library.norm_sums
        self._convolution.argtypes = [pointer] * 4
        self._norm.argtypes = [pointer] * 5 + [number] * 4
        if not library.gram_ready():
            raise OSError("the system does not let a process use the matrix units")

    @staticmethod
    def supports(x: Tensor, dy: Tensor) -> bool:
        """Returns whether the kernels can compute with such inputs and gradients of outputs."""
        return x.dtype is dy.dtype is torch.float32 and x.device.type == "cpu" and 0 < len(x) <= MAX_SAMPLES

    def add_convolution(self, total: Tensor, x: Tensor, dy: Tensor, *options: Sequence[int]) -> None:
        """Adds rows times their transpose, of the weights of a convolution, on and right of the diagonal.

        Args:
            total: (B, B), contiguous.
            x: inputs (B, C, H, W).
            dy: gradient of the loss with respect to the outputs, (B, O, ...).
            options: the kernel's height and width, stride, padding and dilation, of two each.

        Raises:
            MemoryError: memory is full.
        """
        x, dy = x.contiguous(), dy.contiguous()
        shapes = (len(x), x.shape[1], dy.shape[1], *x.shape[2:], *dy.shape[2:])
        sizes = Sizes(*shapes, *chain.from_iterable(options), torch.get_num_threads())
        if self._convolution(x.data_ptr(), dy.data_ptr(), total.data_ptr(), sizes):
            raise MemoryError(f"not enough memory for per-sample gradients of a batch of {len(x)}")

    def norm_sums(self, x: Tensor, dy: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """Returns sum_t dy xhat, then sum_t dy, (B, 2 C), where xhat = (x - mean) scale.

        Args:
            x: inputs (B, C, ...).
            dy: gradient of the loss with respect to the outputs.
            mean: of each channel, (C,).
            scale: of each channel, (C,).
        """
        samples, channels = x.shape[:2]
        x, dy, sums = x.contiguous(), dy.contiguous(), x.new_empty(samples, 2 * channels)
        mean, scale = mean.float().contiguous(), scale.float().contiguous()
        pointers = (t.data_ptr() for t in (x, dy, mean, scale, sums))
        self._norm(*pointers, samples, channels, dy.numel() // (samples * channels), torch.get_num_threads())
        return sums


@cache
def kernels() -> Kernels | None:
    """Returns the kernels, compiled if need be; None where they cannot be used."""
    return load_kernels()[0]


def kernel_problem() -> str | None:
    """Returns why the kernels are not used on a CPU that supports them; None where they are, or on another CPU."""
    return load_kernels()[1]


@cache
def load_kernels() -> tuple[Kernels | None, str | None]:
    """Returns the kernels, or the problem; neither where the CPU does not support them or TRAINOPT_KERNELS is 0."""
    if os.environ.get("TRAINOPT_KERNELS") == "0" or not set(UNITS) <= cpu_flags():
        return None, None
    compiler = os.environ.get("CC", "gcc")
    cache_folder = Path(os.environ.get("TRAINOPT_CACHE", "~/.cache/trainopt")).expanduser()
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()
    path = cache_folder / "kernels" / f"gram-{digest}.so"
    try:
        if not path.exists():
            compile_into(path, compiler)
        return Kernels(path), None
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if "error" in line] or [f"exit {error.returncode}"]
        return None, f"{compiler} fails ({errors[0]})"
    except subprocess.TimeoutExpired:
        return None, f"{compiler} takes more than {COMPILER_TIMEOUT} s"
    except OSError as error:
        return None, f"{error.filename}: {error.strerror}" if error.filename else str(error)


def compile_into(path: Path, compiler: str) -> None:
    """Compiles the kernels; other processes see the file only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [*compiler.split(), *FLAGS, "-o", name, str(SOURCE)]
        subprocess.run(
            command, check=True, capture_output=True, encoding="utf-8", errors="replace", timeout=COMPILER_TIMEOUT
        )
        os.replace(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def cpu_flags() -> set[str]:
    """Returns the flags of the CPU in /proc/cpuinfo; an empty set on other systems than Linux."""
    if sys.platform != "linux":
        return set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    return set()
