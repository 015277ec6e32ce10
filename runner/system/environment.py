"""The process's environment: variables that libraries read, and what a run is recorded to have run on."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts without torch
    import torch

PACKAGES = ("trainopt", "torch", "torchvision", "timm", "hydra-core", "omegaconf", "numpy", "scikit-learn")


def set_variables() -> None:
    """Sets the variables of this process, and of those that it starts, that libraries read later."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors, which it would print otherwise
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # looking for GPUs then starts nothing on them


def add_working_directory() -> None:
    """Makes modules of the working directory importable: after all others, so that none of these is hidden."""
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)


def launched_size() -> int:
    """Returns the number of processes that torchrun started for one run; 1 where it started none."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ and "MASTER_ADDR" in os.environ else 1


def launched_rank() -> int:
    """Returns the number of this process among those that torchrun started; 0 where it started none."""
    return int(os.environ["RANK"]) if launched_size() > 1 else 0


def local_rank() -> int:
    """Returns the number of this process among those that torchrun started on this machine."""
    return int(os.environ["LOCAL_RANK"])


def environment(device: "torch.device", command: list[str]) -> dict[str, Any]:
    """Returns the content of environment.json."""
    import torch

    return {
        "command": command,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        **code_version(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "host": platform.node(),
    }


@cache
def code_version() -> dict[str, Any]:
    """Returns `commit` and `dirty` of the checkout that this program runs from; None outside a checkout.

    Of the first call: what this process runs is what it has imported.
    """
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(here), *arguments]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
    if tracked is None:  # installed below somebody else's checkout, or git is not there
        return {"commit": None, "dirty": None}
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
