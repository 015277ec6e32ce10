"""Plain convolutional networks for small images: AlexNet's and VGG's form."""

from collections.abc import Sequence

from torch import Tensor, nn


class PlainConvNet(nn.Module):
    """Convolutions and max-pooling one after another, (B, in_channels, H, W) -> (B, num_classes).

    Convolutions have stride 1, a bias, and padding that preserves the image's size; a ReLU follows each. Pooling is
    over 2x2 pixels with stride 2. The mean over the image goes to one linear layer. With the two sets of arguments in
    conf/model these are the reduced AlexNet (Krizhevsky et al. 2012) and the VGG-16 (Simonyan and Zisserman 2015) of
    Mandatelli 2018, section 2.2. Weights have torch's default initialization.

    >>> network = PlainConvNet(3, 10, [64, 192, 384, 256, 256], kernels=[11, 5, 3, 3, 3], pool_after=[1, 2, 5])
    >>> sum(p.numel() for p in network.parameters())
    2472266

    Args:
        in_channels: channels of the images.
        num_classes: number of outputs.
        channels: output channels of each convolution.
        kernels: side of each convolution's kernel in pixels, odd; a single number is for all.
        pool_after: numbers of the convolutions, from 1, that pooling follows.
        batch_norm: between a convolution and its ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: Sequence[int],
        kernels: Sequence[int] = (3,),
        pool_after: Sequence[int] = (),
        batch_norm: bool = False,
    ):
        super().__init__()
        sides = list(kernels) * len(channels) if len(kernels) == 1 else list(kernels)
        if not channels or len(sides) != len(channels):
            raise ValueError(
                f"kernels={list(kernels)}: must be one number, or one for each of {len(channels)} channels"
            )
        if any(side % 2 == 0 for side in sides):
            raise ValueError(f"kernels={list(kernels)}: must be odd, so that padding preserves the size of an image")
        if not set(pool_after) <= set(range(1, len(channels) + 1)):
            raise ValueError(f"pool_after={list(pool_after)}: must be numbers of convolutions, 1 to {len(channels)}")
        layers: list[nn.Module] = []
        for number, (width, side) in enumerate(zip(channels, sides, strict=True), start=1):
            layers.append(nn.Conv2d(in_channels, width, side, padding=side // 2))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            if number in pool_after:
                layers.append(nn.MaxPool2d(2))
            in_channels = width
        self.features = nn.Sequential(*layers)
        self.linear = nn.Linear(in_channels, num_classes)

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes)."""
        return self.linear(self.features(x).mean((2, 3)))
