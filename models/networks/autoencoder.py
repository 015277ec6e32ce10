"""Deep autoencoders."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .mlp import ACTIVATIONS

PIXELS = 28 * 28  # of MNIST's images, for which the widths below are
HIDDEN, CODE = (1000, 500, 250), 30  # Hinton and Salakhutdinov 2006
INITS = ("sparse", "xavier", "torch")
CONNECTIONS = 15  # of a unit to the layer before, in the sparse initialization
SIGMOID_GAIN = 4.0  # 1 / the logistic function's slope at 0


class Autoencoder(nn.Sequential):
    """Deep autoencoder, (B, ...) -> (B, ...): an encoder to a few numbers, and a decoder of the mirrored widths.

    On 28x28 images it is 784-1000-500-250-30-250-500-1000-784 with logistic units and a linear code (Hinton and
    Salakhutdinov 2006, Science 313), a benchmark of second-order optimizers since Martens 2010. Its outputs have the
    shape of its inputs; they are logits of pixels in [0, 1] for objective=bce, or the pixels for mse.

    >>> network = Autoencoder((1, 28, 28))
    >>> sum(p.numel() for p in network.parameters())
    2837314
    >>> Autoencoder((1, 8, 8)).widths
    [64, 82, 41, 20, 9]

    Args:
        input_shape: of an input, as (C, H, W).
        hidden: units of the encoder's hidden layers; None: [1000, 500, 250], for fewer than 784 inputs in proportion
            to their number.
        code: units of the code; None: 30, for fewer than 784 inputs in proportion to the square root of their number,
            the side of an image.
        activation: of the hidden layers, a key of `ACTIVATIONS`; the code is linear.
        init: how weights begin. `sparse`: 15 of a unit are drawn from N(0, 1) and the others are 0 (Martens 2010,
            section 5, for saturating units); `xavier`: uniform within sqrt(6 / (inputs + outputs)), for logistic units
            4 times that (Glorot and Bengio 2010); biases are 0 then. `torch`: as nn.Linear's, from which a deep network
            of logistic units learns nothing but the mean image.

    Attributes:
        targets_are_inputs: the targets of a sample are its inputs.
        widths: of the encoder, from the inputs to the code.

    Raises:
        ValueError: there is no such `init`.
    """

    targets_are_inputs = True

    def __init__(
        self,
        input_shape: Sequence[int],
        hidden: Sequence[int] | None = None,
        code: int | None = None,
        activation: str = "sigmoid",
        init: str = "sparse",
    ):
        if init not in INITS:
            raise ValueError(f"init={init}: must be one of {', '.join(INITS)}")
        inputs = math.prod(input_shape)
        scale = min(1.0, inputs / PIXELS)
        units = [max(1, round(scale * width)) for width in HIDDEN] if hidden is None else list(hidden)
        self.widths = [inputs, *units, max(1, round(CODE * math.sqrt(scale))) if code is None else code]
        layers: list[nn.Module] = [nn.Flatten()]
        for widths in (self.widths, self.widths[::-1]):
            for before, after in pairwise(widths):
                layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
            layers.pop()  # code and outputs are linear
        super().__init__(*layers, nn.Unflatten(1, tuple(input_shape)))
        for layer in self:
            if isinstance(layer, nn.Linear) and init != "torch":
                nn.init.zeros_(layer.bias)
                if init == "xavier":
                    nn.init.xavier_uniform_(layer.weight, SIGMOID_GAIN if activation == "sigmoid" else 1.0)
                else:
                    _set_sparse(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Returns reconstructions (B, ...), before the logistic function where they are logits."""
        return super().forward(x)


@torch.no_grad()
def _set_sparse(weight: Tensor) -> None:
    """Sets weights (out, in) to the sparse initialization."""
    weight.zero_()
    for row in weight:
        chosen = torch.randperm(len(row))[:CONNECTIONS]
        row[chosen] = torch.randn(len(chosen))
