"""The content of environment.json: on what a run is recorded to have run, and with what."""

import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .repository import git
from .user_code import CELL, PACKAGE, modules_of, root_of, used_code

if TYPE_CHECKING:  # the command line starts without torch
    import torch

FOLDERS = ("conf", "data", "models", "optimizers", "runner")  # of this program, below the checkout
PACKAGES = ("trainopt", "torch", "torchvision", "timm", "hydra-core", "omegaconf", "numpy", "scikit-learn")
SUPPLIERS = ("pytorch_optimizer", "schedulefree", "torchmetrics", "datasets")  # recorded where they are imported


def environment(device: "torch.device", command: list[str], targets: Iterable[str] = ()) -> dict[str, Any]:
    """Returns the content of environment.json.

    Args:
        device: of the run.
        command: the command line.
        targets: the dotted names of the classes and functions that the configuration names.
    """
    import torch

    targets = list(targets)
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "versions": versions(targets),
        **code_version(),
        "code": used_code(targets),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "host": platform.node(),
    }


def versions(targets: Iterable[str]) -> dict[str, str | None]:
    """Returns the versions of Python, of the packages that every run uses, and of those that its classes come from.

    They are those of distributions; of a package that is installed under another name, its `__version__`.
    """
    modules = [module for target in targets for module in modules_of(target)]
    names = [module.__name__.partition(".")[0] for module in modules if root_of(module) is None]
    imported = (name for name in SUPPLIERS if name in sys.modules and root_of(sys.modules[name]) is None)
    suppliers = [*imported, *names]
    others = sorted({*suppliers} - {PACKAGE, CELL, *PACKAGES, *sys.stdlib_module_names})
    return {
        "python": platform.python_version(),
        **{name: installed_version(name) for name in PACKAGES},
        **{name: installed_version(name) or getattr(sys.modules.get(name), "__version__", None) for name in others},
    }


@cache
def code_version() -> dict[str, Any]:
    """Returns `commit` and `dirty` of the checkout that this program runs from; None outside a checkout.

    `dirty` is about the program's own folders: other files there, as those of the user, change nothing in it. Of the
    first call: what this process runs is what it has imported.
    """
    here = Path(__file__).resolve().parent
    program = [str(here.parents[1] / folder) for folder in FOLDERS]
    tracked = git(here, "ls-files", "--error-unmatch", Path(__file__).name)
    if tracked is None:  # installed below somebody else's checkout, or git is not there
        return {"commit": None, "dirty": None}
    return {"commit": git(here, "rev-parse", "HEAD"), "dirty": bool(git(here, "status", "--porcelain", "--", *program))}


@cache
def installed_version(package: str) -> str | None:
    """Returns the version of an installed distribution; None where it is not installed."""
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


def _memory() -> int | None:
    """Returns the bytes of the machine's memory; None where the system does not say it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
