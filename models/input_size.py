"""The sizes of images that a network can compute."""

import copy

import torch
from torch import nn

LARGEST = 512
STEP = 8  # of the sides that are tried, at least


def smallest_input(network: nn.Module, image_shape: tuple[int, ...], largest: int = LARGEST) -> int | None:
    """Returns the side to which images must be upsampled for a network; None if they can stay as they are.

    For networks of timm with a fixed input size that is this size; for others it is at least the factor by which they
    divide the side (32 for ResNet-50), so that one position remains before the pool. Its multiples are tried one after
    the other, as some networks take no other sizes (DLA, HRNet). Others take all sizes from one on (Inception, whose
    convolutions do not pad): where one pixel more than such a multiple works too, it is the smallest above the multiple
    before.

    Args:
        network: left unchanged.
        image_shape: (C, H, W).
        largest: the largest side that is tried, beside the network's default.

    Raises:
        ValueError: no such size works; it has the network's message for the images as they are.
    """
    channels, height, width = image_shape
    config = getattr(network, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size"):
        side = config["input_size"][-1]
        return None if height == width == side else side
    stages = getattr(network, "feature_info", None) or [{}]
    reduction = max((stage.get("reduction", 1) for stage in stages if isinstance(stage, dict)), default=1)
    trial = copy.deepcopy(network).train()
    first = _failure(trial, channels, height, width) if min(height, width) >= reduction else ""
    if first is None:
        return None
    least, step, failure = max(min(height, width), reduction), max(reduction, STEP), ""
    default = (config.get("input_size") or [0])[-1]
    sides = {*range(-(-least // step) * step, largest + 1, step), max(default, least)}
    low = least
    for high in sorted(sides):
        failure = _failure(trial, channels, high, high) or ""
        if not failure:
            break
        low = high + 1
    if failure:
        shape = [channels, height, width]
        raise ValueError(f"the network takes no images of shape {shape}, nor larger ones ({first or failure})")
    if low < high and _failure(trial, channels, high + 1, high + 1) is not None:
        return high
    while low < high:
        middle = (low + high) // 2
        if _failure(trial, channels, middle, middle) is None:
            high = middle
        else:
            low = middle + 1
    return low


def input_failure(
    network: nn.Module, input_shape: tuple[int, ...], batch_size: int = 2, dtype: torch.dtype = torch.float32
) -> str | None:
    """Returns the error of a network in training mode, in one line; None if it can compute such a batch.

    It is tried on a copy (torch's meta device would take longer: it loads the compiler).

    Args:
        network: left unchanged.
        input_shape: of an input; (C, H, W) of images.
        batch_size: number of inputs.
        dtype: of inputs, which are zeros.
    """
    return _failure(copy.deepcopy(network).train(), *input_shape, batch_size=batch_size, dtype=dtype)


def _failure(trial: nn.Module, *shape: int, batch_size: int = 2, dtype: torch.dtype = torch.float32) -> str | None:
    """Returns the error of a forward pass with inputs of this shape, in one line; None if it works."""
    device = next((p.device for p in trial.parameters()), None)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(torch.zeros(batch_size, *shape, dtype=dtype, device=device))
    except Exception as error:  # noqa: BLE001 - a network may raise any error
        return " ".join(str(error).split())[:200]
    return None
