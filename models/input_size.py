"""The smallest images that a network can compute."""

import copy

import torch
from torch import nn

LARGEST = 512


def smallest_input(network: nn.Module, image_shape: tuple[int, int, int], largest: int = LARGEST) -> int | None:
    """Returns the side to which images must be upsampled for a network; None if they can stay as they are.

    For networks of timm with a fixed input size that is this size; for others it is at least the factor by which they
    divide the side (32 for ResNet-50), so that one position remains before the pool. Whether a size works is tried, in
    training mode, on a copy (torch's meta device would take longer: it loads the compiler).

    Args:
        network: left unchanged.
        image_shape: (C, H, W).
        largest: the largest side that is tried.

    Raises:
        ValueError: no size up to the largest works; the message is the network's own for that one.
    """
    channels, height, width = image_shape
    config = getattr(network, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size"):
        side = config["input_size"][-1]
        return None if height == width == side else side
    stages = getattr(network, "feature_info", None) or [{}]
    reduction = max((stage.get("reduction", 1) for stage in stages if isinstance(stage, dict)), default=1)
    trial = copy.deepcopy(network).train()
    if min(height, width) >= reduction and _failure(trial, channels, height, width) is None:
        return None
    low, high = max(min(height, width), reduction), largest
    failure = _failure(trial, channels, high, high)
    if failure is not None:
        raise ValueError(f"the network takes no images of {channels} channels ({failure})")
    while low < high:
        middle = (low + high) // 2
        if _failure(trial, channels, middle, middle) is None:
            high = middle
        else:
            low = middle + 1
    return low


def _failure(trial: nn.Module, channels: int, height: int, width: int) -> str | None:
    """Returns the error of a forward pass with two images of this size, in one line; None if it works."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(torch.zeros(2, channels, height, width))
    except Exception as error:  # noqa: BLE001 - a network may raise any error
        return " ".join(str(error).split())[:200]
    return None
