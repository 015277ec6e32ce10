"""Fully connected networks."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}


class MLP(nn.Sequential):
    """Multilayer perceptron on flattened inputs, (B, ...) -> (B, num_classes).

    With `hidden=[12, 12]` and ReLU on 28x28 images it is the 784-12-12-10 network of Menssen 2019, chapter 2.1.

    Args:
        input_shape: of an input, as (C, H, W).
        num_classes: number of outputs.
        hidden: units of each hidden layer; an empty list makes a linear classifier.
        activation: a key of `ACTIVATIONS`.
        dropout: probability that a hidden unit is dropped while training.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        hidden: Sequence[int] = (12, 12),
        activation: str = "relu",
        dropout: float = 0.0,
    ):
        layers: list[nn.Module] = [nn.Flatten()]
        features = math.prod(input_shape)
        for units in hidden:
            layers += [nn.Linear(features, units), ACTIVATIONS[activation]()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            features = units
        super().__init__(*layers, nn.Linear(features, num_classes))

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes)."""
        return super().forward(x)
