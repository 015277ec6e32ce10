"""Processes that load samples."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from ..errors import DataError

LONG_LOADING = 2.0  # seconds of one pass over the training set from which on several processes load
DEFAULT_WORKERS = 4  # then

Progress = Callable[[int, int], None]  # called with how many samples of how many were looked at

# those that stop a run; none where the system cannot let them wait (Windows)
SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} if hasattr(signal, "pthread_sigmask") else set()


def load(dataset: Dataset, workers: int, **options: Any) -> Iterator[Any]:
    """Returns the batches of a DataLoader, which leaves torch's global random numbers alone.

    Args:
        dataset: what is read.
        workers: number of processes that read, at most one for each core that the run may use; 0: this one does.
        **options: further arguments of DataLoader.
    """
    loader: DataLoader = DataLoader(
        dataset,
        num_workers=processes(workers),
        worker_init_fn=_leave_group,
        generator=torch.Generator(),
        **options,
    )
    with _held_back():
        return iter(loader)


def worker_count(workers: int | None, seconds: float) -> int:
    """Returns how many processes load samples, at most one for each core that the run may use.

    Args:
        workers: how many may; None: by the seconds.
        seconds: of one pass over the samples.
    """
    if workers is None:
        workers = DEFAULT_WORKERS if seconds > LONG_LOADING else 0
    return processes(workers) if workers else 0


def processes(workers: int) -> int:
    """Returns how many processes load samples where so many may: at most one for each core that the run may use."""
    from joblib import cpu_count  # beside other runs, their share of the cores

    return min(workers, cpu_count())


def spare_cores(workers: int) -> int:
    """Returns how many cores so many processes leave, at least one."""
    from joblib import cpu_count

    return max(1, cpu_count() - workers)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Lets torch use so many threads while entered, and no more than it does."""
    before = torch.get_num_threads()
    if number >= before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def collated(items: list[Any]) -> Any:
    """Returns a batch, or an error: the first among its items, or that shared memory is full."""
    error = next((item for item in items if isinstance(item, DataError)), None)
    if error is not None:
        return error
    try:
        return default_collate(items)
    except RuntimeError as failure:
        if "shared memory" not in str(failure):
            raise
        return DataError(
            "batches of the processes that read samples do not fit into shared memory (/dev/shm); for a container give"
            " docker run --ipc=host (or --shm-size=8g), or set data.workers=0"
        )


def _leave_group(worker: int) -> None:
    """Puts a reading process into a group of its own: a signal to the run's group is for the run to handle."""
    del worker
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    if SIGNALS:
        while waiting := signal.sigpending() & SIGNALS:
            signal.sigwait(waiting)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _held_back() -> Iterator[None]:
    """Lets signals that stop a run wait while entered; a process that begins meanwhile leaves its group first."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if SIGNALS else ()
    try:
        yield
    finally:
        if SIGNALS:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
