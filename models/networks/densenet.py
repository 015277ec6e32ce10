"""Densely connected networks for small images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

STEM = 16


class DenseLayer(nn.Module):
    """x concatenated with BN-ReLU-conv3x3 of x, (B, C, H, W) -> (B, C + growth, H, W)."""

    def __init__(self, channels: int, growth: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the old channels, then the new ones."""
        return torch.cat([x, self.conv(relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """BN-ReLU-conv1x1 and average pooling over 2x2 pixels, (B, C, H, W) -> (B, C, H / 2, W / 2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns images of half the size; odd sides are rounded up."""
        return avg_pool2d(self.conv(relu(self.bn(x))), 2, ceil_mode=True)


class DenseNet(nn.Module):
    """Densely connected network for small images, (B, in_channels, H, W) -> (B, num_classes).

    A 3x3 stem of 16 channels without batch norm, blocks of layers that each add `growth` channels to their input,
    transitions between blocks, BN-ReLU and the mean over the image, one linear layer
    (Huang et al. 2017, arXiv 1608.06993; in the form of Liao et al. 2018, section 4: no bottlenecks, no
    compression, one growth for each block). Convolutions have no biases. With the defaults there are 1,724,890 weights
    for 10 classes. The networks of timm and torchvision have bottlenecks and one growth for all blocks.

    The initialization is that of the study's program: convolutions normal with variance 2 / (k^2 outputs) (He et al.
    2015), the last layer as in torch, with biases 0.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        layers: number of layers in each block.
        growth: for each block, the channels that each of its layers adds.
    """

    def __init__(self, in_channels: int, num_classes: int, layers: int = 18, growth: Sequence[int] = (8, 10, 14)):
        super().__init__()
        if not growth:
            raise ValueError("growth=[]: must have a number for each block, as in [8,10,14]")
        channels = STEM
        parts: list[nn.Module] = [nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)]
        for block, new in enumerate(growth):
            if block:
                parts.append(Transition(channels))
            parts += [DenseLayer(channels + i * new, new) for i in range(layers)]
            channels += layers * new
        self.features = nn.Sequential(*parts)
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes)."""
        return self.linear(torch.mean(relu(self.bn(self.features(x))), (2, 3)))
