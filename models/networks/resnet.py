"""Residual networks for small images."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pad, relu

WIDTHS = (16, 32, 64)


class Unit(nn.Module):
    """conv-BN-ReLU-conv-BN plus a shortcut without weights, (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int, relu_after_sum: bool, shortcut: str):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.new_channels = stride, width - channels
        self.relu_after_sum, self.shortcut = relu_after_sum, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of the residual branch and the shortcut."""
        out = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            average = self.shortcut == "average_pool"
            x = avg_pool2d(x, self.stride, ceil_mode=True) if average else x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        out = out + x
        return relu(out) if self.relu_after_sum else out


class ResNet(nn.Module):
    """Residual network for small images, (B, in_channels, H, W) -> (B, num_classes).

    A 3x3 stem, three stages of n units with 16, 32 and 64 channels at full, half and quarter size, mean over the
    image, one linear layer: 6n + 2 layers with weights (He et al. 2016, section 4.2; arXiv 1512.03385).
    With `relu_after_sum=False` units end in the sum, and BN-ReLU comes before the mean (Liao et al. 2018,
    section IV). Parameter names are those of the public CIFAR-10 weights of this form, so that they load.

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        depth: 6n + 2 with an integer n.
        relu_after_sum: whether a unit ends in a ReLU.
        shortcut: how a shortcut halves the image: `subsample` every second pixel (option A of He et al.), or
            `average_pool`; new channels are zeros on both sides.
        relu_after_stem: whether a ReLU follows the stem's batch norm.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 20,
        relu_after_sum: bool = True,
        shortcut: str = "subsample",
        relu_after_stem: bool = True,
    ):
        super().__init__()
        units, rest = divmod(depth - 2, 6)
        if rest or units < 1:
            raise ValueError(f"depth={depth}: must be 6n + 2, as in 8, 20, 32, 44, 56 or 110")
        if shortcut not in ("subsample", "average_pool"):
            raise ValueError(f"shortcut={shortcut}: must be subsample or average_pool")
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu_after_stem = relu_after_stem

        def stage(channels: int, width: int, stride: int) -> nn.Sequential:
            first = Unit(channels, width, stride, relu_after_sum, shortcut)
            rest = (Unit(width, width, 1, relu_after_sum, shortcut) for _ in range(units - 1))
            return nn.Sequential(first, *rest)

        self.layer1 = stage(WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = stage(WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = stage(WIDTHS[1], WIDTHS[2], stride=2)
        self.bn2 = nn.Identity() if relu_after_sum else nn.BatchNorm2d(WIDTHS[2])
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # the initialization of He et al. 2015
                nn.init.kaiming_normal_(module.weight)

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes)."""
        x = self.bn1(self.conv1(x))
        x = relu(x) if self.relu_after_stem else x
        x = self.layer3(self.layer2(self.layer1(x)))
        if not isinstance(self.bn2, nn.Identity):
            x = relu(self.bn2(x))
        return self.linear(torch.mean(x, (2, 3)))
