"""The process's environment: variables that libraries read, modules of the working directory, torchrun's processes."""

import os
import sys

from .errors import UserError
from .flags import config_dirs

IN_TASK = "TRAINOPT_IN_TASK"  # set where a cluster's queue starts again what it ends
LIMIT_CAME = "TRAINOPT_LIMIT_CAME"  # set where the signal ahead of the time limit came before this process began
CONFIG_DIR = "TRAINOPT_CONFIG_DIR"  # a folder of options, searched after those of --config-dir


def with_config_dir(arguments: list[str]) -> list[str]:
    """Returns a command line with the folder of options that the environment names, behind those that are typed.

    Raises:
        UserError: there is no such folder.
    """
    folder = os.path.expanduser(os.environ.get(CONFIG_DIR, ""))
    if not folder or folder in config_dirs(arguments):
        return arguments
    if not os.path.isdir(folder):
        raise UserError(f"{CONFIG_DIR}={folder}: there is no such folder")
    return [*arguments, "--config-dir", folder]


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
