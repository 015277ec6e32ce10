"""How small images may be for a network."""

import copy

import torch
from torch import nn

LARGEST = 512


def smallest_input(network: nn.Module, image_shape: tuple[int, int, int]) -> int | None:
    """Returns the side to which images of (C, H, W) must be enlarged for a network; None if they may stay.

    Networks of timm with a fixed input size get that; others at least as many pixels as they divide the side by
    (32 for ResNet-50), so that one position is left before the pool. Whether a size can be computed at all is
    tried, in training mode, on a copy (torch's meta device would take longer: it loads the compiler).

    Raises:
        ValueError: no size up to `LARGEST` works; the message is the network's own for the largest.
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
    low, high = max(min(height, width), reduction), LARGEST
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
    """Returns None if a batch of two such images can go through, else why not."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            trial(torch.zeros(2, channels, height, width))
    except Exception as error:  # noqa: BLE001 - whatever a network says of images that it cannot take
        return " ".join(str(error).split())[:200]
    return None
