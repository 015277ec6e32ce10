"""The share of a machine that each of several runs at a time gets: GPUs, parts of a GPU, and cores."""

import math
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import torch

from ..system.device import cores
from ..system.errors import UserError

KEY = "devices_per_job"
MOST_JOBS = 32  # on one GPU
BYTES = math.lcm(*range(1, MOST_JOBS + 1))  # of the file of a GPU: 1/n of a GPU is the lock on 1/n of them, for every n
POLL_SECONDS = 0.2


def check_share(share: float, device: str) -> None:
    """Checks devices_per_job against the GPUs that are visible.

    Args:
        share: GPUs of a job, or the part of one.
        device: the configuration's.

    Raises:
        UserError: it is neither a whole number nor 1/n, or the machine cannot give a job so much.
    """
    if share == 1:
        return
    typed = f"{KEY}={share:g}"
    if share > 1 and share != int(share):
        raise UserError(f"{typed}: must be a whole number of GPUs, or 1/n of one, as 0.5 or 0.25")
    if share < 1 and (jobs_on_one(share) > MOST_JOBS or abs(share * jobs_on_one(share) - 1) > 0.02):
        raise UserError(f"{typed}: must be 1/n of a GPU, as 0.5 or 0.25, with n up to {MOST_JOBS}; or a whole number")
    if device not in ("auto", "cuda"):
        raise UserError(
            f"{typed}: gives GPUs to jobs, and device={device} names one device for all; leave one of them out"
        )
    count = torch.cuda.device_count()  # starts nothing on a GPU
    if not count:
        raise UserError(f"{typed}: no CUDA GPU is visible here; leave it out")
    if share > count:
        raise UserError(f"{typed}: only {count} GPU{'s are' if count > 1 else ' is'} visible here")


def jobs_on_one(share: float) -> int:
    """Returns how many jobs share a GPU; 1 where a job has one or more.

    >>> jobs_on_one(0.25), jobs_on_one(0.33), jobs_on_one(2)
    (4, 3, 1)
    """
    return max(1, round(1 / share))


def default_workers(device: str, share: float = 1) -> int:
    """Returns the default number of runs at a time: what fits on the GPUs, without GPUs one for each core.

    Args:
        device: the configuration's.
        share: GPUs of a run, or the part of one.
    """
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    return max(1, gpus * jobs_on_one(share) // math.ceil(share)) if gpus else cores()


@contextmanager
def shared_machine(workers: int, device: str, share: float = 1) -> Iterator[list[IO[bytes]]]:
    """Takes this run's part of a machine on which several train at a time.

    CPU cores are divided: torch's threads, and through joblib's variable the processes that read data. Of several GPUs,
    or of a part of one, `auto` and `cuda` mean those that no other run has taken by this function; the run waits until
    there are some. They are the only ones that this process, and what it starts, then see.

    Args:
        workers: number of runs at a time.
        device: the configuration's.
        share: GPUs of a run, or the part of one.

    Yields:
        The open files whose locks hold the GPUs; none where nothing is held.
    """
    with ExitStack() as stack:
        if workers > 1:
            threads = max(1, cores() // workers)
            torch.set_num_threads(threads)
            os.environ["LOKY_MAX_CPU_COUNT"] = str(threads)
        files: list[IO[bytes]] = []
        if device in ("auto", "cuda") and (share != 1 or (workers > 1 and torch.cuda.device_count() > 1)):
            names, files = stack.enter_context(free_gpus(visible_gpus(), share))
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)  # before this process uses one
        yield files


def visible_gpus() -> list[str]:
    """Returns the names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES has them, or their numbers."""
    count = torch.cuda.device_count()
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return visible[:count] if visible else [str(index) for index in range(count)]


@contextmanager
def free_gpus(names: Sequence[str], share: float) -> Iterator[tuple[list[str], list[IO[bytes]]]]:
    """Waits until other processes, by this function, leave a share of the GPUs free; holds it while entered.

    A GPU is a file; 1/n of it is a lock on an n-th of its bytes. So jobs of several sizes never have more than all
    of a GPU, and the system releases a lock when the processes that have it end, however they do.

    Args:
        names: of the GPUs.
        share: a whole number of them, or 1/n of one.

    Yields:
        The names of the GPUs that are held, and the open files.

    Raises:
        UserError: there are not so many.
    """
    folder = Path(tempfile.gettempdir()) / f"trainopt-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    parts, needed = jobs_on_one(share), math.ceil(share)
    if len(names) < needed:
        raise UserError(f"{KEY}={share:g}: this job sees {len(names)} GPUs")
    while True:
        with ExitStack() as stack:
            held: dict[str, IO[bytes]] = {}
            for part in range(parts):  # the first part of every GPU, then the second: jobs are spread
                for name in names:
                    if len(held) < needed and name not in held:
                        file = open_and_lock(folder / f"gpu-{name}", part * (BYTES // parts), BYTES // parts)
                        if file is not None:
                            held[name] = stack.enter_context(file)
            if len(held) == needed:
                yield list(held), list(held.values())
                return
        time.sleep(POLL_SECONDS)


def open_and_lock(path: Path, start: int, length: int) -> IO[bytes] | None:
    """Returns the open file with a lock on bytes of it, which forks of this process share; None if others have one."""
    import fcntl

    file = open(path, "ab")  # noqa: SIM115 - the lock is that of the open file
    # struct flock: type, whence, start, length, process (0 for a lock of the open file)
    request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, request)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    except BaseException:
        file.close()
        raise
    return file
