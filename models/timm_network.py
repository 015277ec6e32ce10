"""Networks of timm by name, also with strides for small images."""

import os
import socket
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import nn

from .weights import WeightsError


def timm_network(
    in_channels: int,
    num_classes: int,
    name: str,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
    auxiliary: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """Returns a network of timm, (B, in_channels, H, W) -> (B, num_classes).

    Args:
        in_channels: channels of the images; pretrained weights of the first layer are adapted by timm.
        num_classes: number of outputs.
        name: a name of `timm.list_models()`, with or without timm's tag of the pretrained weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; None for networks without.
        auxiliary: train its auxiliary classifier too; while training the outputs are then (logits, auxiliary logits).
        pretrained: load timm's pretrained weights, from timm's cache or the network.
    """
    if pretrained and _hub_is_out_of_reach():
        # only the cache is read, without retries; set here, as the hub is needed for pretrained weights only
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import timm

    known = timm.is_model(name)
    if not known:
        from difflib import get_close_matches

        close = get_close_matches(name, timm.list_models(), n=1)
        raise ValueError(f"name={name}: timm has no such network" + (f"; did you mean {close[0]}?" if close else ""))
    options: dict[str, Any] = {"drop_rate": drop_rate}
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    if auxiliary:
        options["aux_logits"] = True
    own_classes = getattr(timm.get_pretrained_cfg(name), "num_classes", None)
    is_adapted = pretrained and auxiliary and own_classes not in (None, num_classes)
    if not is_adapted:  # timm does not adapt the weights of an auxiliary classifier to other classes
        options["num_classes"] = num_classes
    try:
        network: Any = timm.create_model(name, pretrained=pretrained, in_chans=in_channels, **options)
    except TypeError as error:
        raise ValueError(f"{name} does not take these options ({error})") from error
    except Exception as error:
        if not pretrained or isinstance(error, ValueError):
            raise
        raise WeightsError(f"{name}: {_how_to_get(name, error)}") from error
    if is_adapted:
        network.reset_classifier(num_classes)
    if getattr(network, "aux_logits", None) is False:
        network.parts_left_out = ("AuxLogits",)  # files of InceptionV3's weights hold them
    return network


def small_image_network(
    in_channels: int,
    num_classes: int,
    name: str,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
) -> nn.Module:
    """Returns a ResNet or MobileNetV2 of timm that divides the side of an image by 8 instead of 32.

    (B, in_channels, H, W) -> (B, num_classes). The first two of its five strides become 1, so that 32x32 pixels end
    as 4x4. ResNets get a 3x3 first convolution with stride 1 and no max-pooling, as the networks of He et al. 2016
    for CIFAR-10 (section 4.2), which is also usual for deeper ones. MobileNetV2 and similar networks get stride 1 in
    the first convolution and in the second stage (24 channels), as in the public programs for CIFAR-10
    (kuangliu/pytorch-cifar); its paper trains on larger images only.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        name: a name of `timm.list_models()`, of the families ResNet and EfficientNet (to which timm counts
            MobileNetV2).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; None: none.

    Raises:
        ValueError: the network has no such layers.
    """
    from timm.models import EfficientNet, ResNet

    network: Any = timm_network(in_channels, num_classes, name, drop_rate, drop_path_rate)
    family = type(network)
    if issubclass(family, ResNet) and isinstance(network.conv1, nn.Conv2d):
        stem = nn.Conv2d(in_channels, network.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as timm's own
        network.conv1, network.maxpool = stem, nn.Identity()
    elif issubclass(family, EfficientNet) and hasattr(network.blocks[1][0], "conv_dw"):
        network.conv_stem.stride = network.blocks[1][0].conv_dw.stride = (1, 1)
    else:
        raise ValueError(f"name={name}: must be a ResNet or MobileNetV2 of timm, as in resnet34, mobilenetv2_100")
    for stage in network.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)
    return network


def _hub_is_out_of_reach() -> bool:
    """Returns whether the address of Hugging Face's hub cannot be resolved; False behind a proxy, which resolves it."""
    if getproxies():
        return False
    try:
        socket.getaddrinfo(urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname, 443)
    except OSError:
        return True
    return False


def _how_to_get(name: str, error: Exception) -> str:
    import timm

    config = timm.get_pretrained_cfg(name)
    source = getattr(config, "url", "") or f"model.safetensors of {getattr(config, 'hf_hub_id', name)} (Hugging Face)"
    text = " ".join(str(error).split())[:120]
    return (
        f"pretrained weights could not be fetched ({type(error).__name__}: {text});"
        f" fetch {source} on a machine that can and give model.weights=FILE"
    )
