"""Networks of timm with the strides that suit small images."""

from typing import Any

from torch import nn

from .timm_network import timm_network


def small_image_network(
    in_channels: int,
    num_classes: int,
    name: str,
    drop_rate: float = 0.0,
    drop_path_rate: float | None = None,
) -> nn.Module:
    """Returns a ResNet or MobileNetV2 of timm that divides the side of an image by 8 instead of 32.

    (B, in_channels, H, W) -> (B, num_classes). The first two of its five strides are taken away, so that 32x32
    pixels end as 4x4. ResNets: a 3x3 first convolution with stride 1 and no max-pooling, as He et al. 2016 begin
    their networks for CIFAR-10 (section 4.2) and as is usual for the deeper ones there. MobileNetV2, and what is
    built like it: stride 1 in the first convolution and in the second stage (24 channels), as the public programs
    for CIFAR-10 have it (kuangliu/pytorch-cifar); its paper trains on larger images only.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        name: a name of `timm.list_models()`, of the families ResNet and EfficientNet (to which timm counts
            MobileNetV2).
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth; None: none.

    Raises:
        ValueError: the network has no such beginning.
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
