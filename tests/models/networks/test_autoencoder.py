"""Autoencoders: their layers, and the weights that they begin with."""

import pytest
import torch
from torch import nn

from trainopt.models import Autoencoder


def test_autoencoders_are_chains_of_layers_with_a_linear_code():
    torch.manual_seed(0)
    network = Autoencoder((1, 4, 3), hidden=[7, 5], code=2, activation="tanh").double()
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    x = torch.randn(5, 1, 4, 3, dtype=torch.float64)
    y = x.flatten(1)
    for number, layer in enumerate(layers):
        y = y @ layer.weight.T + layer.bias
        y = y if number in (2, 5) else y.tanh()
    assert torch.allclose(network(x), y.view(5, 1, 4, 3))
    assert [layer.out_features for layer in layers] == [7, 5, 2, 5, 7, 12]
    assert network.widths == [12, 7, 5, 2]


def test_default_widths_of_autoencoders_follow_from_the_input():
    assert Autoencoder((1, 8, 8)).widths == [64, 82, 41, 20, 9]
    assert Autoencoder((30,), hidden=[6]).widths == [30, 6, 6]  # 30 * sqrt(30 / 784) = 5.9
    assert Autoencoder((1, 28, 28), code=6).widths == [784, 1000, 500, 250, 6]
    assert Autoencoder((2,), hidden=[5]).widths[0] == 2


@pytest.mark.parametrize(("init", "spread"), [("sparse", 1.0), ("xavier", None), ("torch", None)])
def test_weights_of_autoencoders_begin_as_the_papers_say(init, spread):
    torch.manual_seed(0)
    network = Autoencoder((1, 28, 28), init=init)
    for layer in (m for m in network.modules() if isinstance(m, nn.Linear)):
        nonzero = (layer.weight != 0).sum(1)
        assert (nonzero == (min(15, layer.in_features) if init == "sparse" else layer.in_features)).all()
        assert layer.bias.any() == (init == "torch")
        if init == "xavier":
            bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.abs().max() <= 4 * bound
            assert layer.weight.abs().max() > 3.5 * bound
    if spread:
        weights = network[1].weight
        assert weights[weights != 0].std().item() == pytest.approx(spread, rel=0.05)
