"""Processes that read files."""

import os
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


def loader(dataset: Dataset, workers: int, **options: Any) -> DataLoader:
    """Returns a DataLoader, which leaves torch's global random numbers alone.

    Args:
        dataset: what is read.
        workers: number of processes that read, at most one for each core that the run may use; 0: this one does.
        **options: further arguments of DataLoader.
    """
    from joblib import cpu_count  # beside other runs, their share of the cores

    return DataLoader(
        dataset,
        num_workers=min(workers, cpu_count()),
        worker_init_fn=_leave_group,
        generator=torch.Generator(),
        **options,
    )


def _leave_group(worker: int) -> None:
    """Puts a reading process into a group of its own: a signal to the run's group is for the run to handle."""
    del worker
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
