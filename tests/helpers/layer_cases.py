"""Networks with each kind of layer, small enough for a copy of every parameter for every sample."""

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, GroupNormAct, LayerNorm2d
from timm.layers.attention import Attention
from torch import nn

from helpers.references import Flatten, Residual, numbers
from trainopt.models import ResNet, Transformer

SAMPLES = 5


def conv_net(*layers, shape=(3, 9, 9)):
    """Layers between convolutions, with outputs (B, 4); and their inputs."""
    dimensions = len(shape) - 1
    kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    return Flatten(kind(shape[0], 6, 3), nn.Tanh(), *layers, nn.Tanh(), kind(6, 4, 2)), shape


def token_net(*layers):
    """Layers at three places with six numbers each, between linear layers; and their inputs."""
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), *layers, nn.Flatten(), nn.Linear(18, 4)), (3, 7)


class Tokens(nn.Module):
    """Numbers as tokens below a bound."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, x):
        return (100 * x.abs()).long() % self.bound


def embedded(count, **options):
    """A table of so many tokens, at three places, below a linear layer; and its inputs."""
    table = nn.Embedding(count, 6, **options)
    return nn.Sequential(Tokens(count), table, nn.Tanh(), nn.Flatten(), nn.Linear(18, 4)), (3,)


CASES = {
    "linear": lambda: (nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 4, bias=False)), (7,)),
    "linear at positions": lambda: token_net(nn.Linear(6, 6), nn.Tanh()),
    "wide linear at few positions": lambda: token_net(nn.Linear(6, 50), nn.Tanh(), nn.Linear(50, 40), nn.Linear(40, 6)),
    "embedding": lambda: embedded(2),
    "embedding of many tokens": lambda: embedded(40),
    "embedding with padding": lambda: embedded(3, padding_idx=-1),
    "transformer": lambda: (nn.Sequential(Tokens(5), Transformer((3,), 4, 5, 2, 6, 2, norm="pre", causal=True)), (3,)),
    "layer norm": lambda: token_net(nn.LayerNorm(6)),
    "attention": lambda: token_net(Residual(nn.LayerNorm(6), Attention(6, num_heads=2, qkv_bias=True))),
    "conv1d": lambda: conv_net(nn.Conv1d(6, 6, 3, padding=1), shape=(3, 12)),
    "conv3d": lambda: conv_net(nn.Conv3d(6, 6, 2, stride=(1, 2, 1)), shape=(3, 6, 7, 6)),
    "strided": lambda: conv_net(nn.Conv2d(6, 6, 3, stride=2, padding=1)),
    "dilated": lambda: conv_net(nn.Conv2d(6, 6, (3, 2), dilation=(1, 2), padding=(0, 2))),
    "grouped": lambda: conv_net(nn.Conv2d(6, 6, 3, groups=3)),
    "depthwise": lambda: conv_net(nn.Conv2d(6, 6, 3, groups=6, padding=1)),
    "depthwise with a multiplier": lambda: conv_net(nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 6, 1)),
    "1x1": lambda: conv_net(nn.Conv2d(6, 6, 1, bias=False)),
    "16 channels": lambda: conv_net(nn.Conv2d(6, 16, 3), nn.Conv2d(16, 16, 3, 2, 1), nn.Conv2d(16, 6, 1)),
    "wide with few positions": lambda: conv_net(nn.Conv2d(6, 40, 5), nn.Conv2d(40, 40, 3, 1, 1), nn.Conv2d(40, 6, 2)),
    "same": lambda: conv_net(nn.Conv2d(6, 6, (2, 3), padding="same")),
    "same, dilated": lambda: conv_net(nn.Conv2d(6, 6, 4, padding="same", dilation=(1, 3))),
    "taps outside of the image": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=(8, 5), dilation=(8, 4))),
    "valid": lambda: conv_net(nn.Conv2d(6, 6, 3, padding="valid")),
    "reflected": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")),
    "circular": lambda: conv_net(nn.Conv2d(6, 6, 3, padding=(1, 2), padding_mode="circular")),
    "batch norm": lambda: conv_net(nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6)),
    "batch norm 1d": lambda: (nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4)), (7,)),
    "batch norm 3d": lambda: conv_net(nn.BatchNorm3d(6), shape=(3, 5, 5, 4)),
    "batch norm, no running statistics": lambda: conv_net(nn.BatchNorm2d(6, track_running_stats=False)),
    "group norm": lambda: conv_net(nn.GroupNorm(3, 6)),
    "layer norm over places": lambda: conv_net(nn.LayerNorm((6, 7, 7))),
    "instance norm": lambda: conv_net(nn.InstanceNorm2d(6, affine=True)),
    "instance norm, running statistics": lambda: conv_net(nn.InstanceNorm2d(6, 1e-5, 0.1, True, True)),
    "timm's padding": lambda: conv_net(Conv2dSame(6, 6, 3, stride=2)),
    "timm's norm and activation": lambda: conv_net(BatchNormAct2d(6), nn.Conv2d(6, 6, 2), GroupNormAct(6, 3)),
    "timm's LayerNorm2d": lambda: conv_net(LayerNorm2d(6)),
    "ResNet-8": lambda: (ResNet(3, 4, 8), (3, 8, 8)),
}


class Twice(nn.Module):
    """Layers that are used more than once."""

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.linear = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        x = self.norm(self.conv(torch.tanh(self.first(x))))
        x = self.norm(self.conv(torch.tanh(x))).mean((2, 3))
        return self.last(self.linear(torch.tanh(self.linear(x))))


def case(name, train=True):
    """A network in float64 with weights that are not special, inputs and targets."""
    torch.manual_seed(0)
    network, shape = CASES[name]()
    network.double().train(train)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for buffer in network.buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return network, numbers(SAMPLES, *shape), torch.arange(SAMPLES) % 4
