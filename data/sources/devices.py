"""Where a set in memory is stored, and how its batches get to the device that trains on them."""

import torch
from torch import Tensor


def storage_device(values: Tensor, device: torch.device) -> torch.device:
    """Returns the device on which to store a set: a GPU where it takes at most half of the free memory, else the CPU.

    Args:
        values: the set.
        device: that its batches go to.
    """
    if device.type != "cuda":
        return device
    free, _ = torch.cuda.mem_get_info(device)
    return device if values.nbytes <= free // 2 else torch.device("cpu")


def to_device(inputs: Tensor, targets: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns a batch on a device; a copy does not wait for the device."""
    return moved(inputs, device), moved(targets, device)


def moved(values: Tensor, device: torch.device) -> Tensor:
    """Returns values on a device; a copy does not wait for the device."""
    here = values.device
    if here.type == device.type and (device.index is None or here.index in (None, device.index)):  # cuda may be cuda:0
        return values
    return values.contiguous().pin_memory().to(device, non_blocking=True)
