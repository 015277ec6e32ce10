"""Transformers: their blocks are torch's, and what cannot be is refused."""

import pytest
import torch
from torch import nn

from trainopt.models import Transformer


@pytest.mark.parametrize(("norm", "activation"), [("pre", "gelu"), ("post", "relu")])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_transformers_are_torchs(norm, activation, causal):
    """With the weights of nn.TransformerEncoderLayer, in evaluation mode."""
    torch.manual_seed(0)
    network = Transformer((7,), 3, 11, 2, 12, 3, 2.0, activation, dropout=0.3, norm=norm, causal=causal, pooling="mean")
    network.double().eval()
    tokens = torch.randint(11, (5, 7))
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    x = network.tokens.weight[tokens] + network.positions.weight
    for block in network.blocks:
        layer = nn.TransformerEncoderLayer(12, 3, 24, 0.3, activation, batch_first=True, norm_first=norm == "pre")
        layer.double().eval()
        pairs = {
            "self_attn.in_proj_": block.attention.qkv,
            "self_attn.out_proj.": block.attention.proj,
            "linear1.": block.mlp[0],
            "linear2.": block.mlp[3],
            "norm1.": block.norm1,
            "norm2.": block.norm2,
        }
        layer.load_state_dict({f"{a}{b}": value for a, part in pairs.items() for b, value in part.state_dict().items()})
        x = layer(x, src_mask=mask, is_causal=causal)
    if norm == "pre":
        x = nn.functional.layer_norm(x, (12,), network.norm.weight, network.norm.bias)
    expected = network.head(x.mean(1))
    assert torch.allclose(network(tokens), expected, rtol=1e-10, atol=1e-12)


def test_a_transformer_without_norm_reads_the_last_position():
    torch.manual_seed(0)
    network = Transformer((3,), 4, 5, layers=1, width=8, heads=1).double()
    tokens = torch.randint(5, (6, 3))
    x = network.tokens.weight[tokens] + network.positions.weight
    block = network.blocks[0]
    queries, keys, values = block.attention.qkv(x).chunk(3, dim=2)
    mixed = nn.functional.scaled_dot_product_attention(queries, keys, values)
    x = x + block.attention.proj(mixed)
    x = x + block.mlp[3](block.mlp[0](x).relu())
    assert torch.allclose(network(tokens), network.head(x[:, 2]), rtol=1e-10, atol=1e-12)
    assert network.get_classifier() is network.head


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 8, 8), 10), "needs sequences of tokens.*the shape \\(1, 8, 8\\)"),
        (((10,), 2), "needs sequences of tokens"),
        (((3,), 5, 6, 1, 10, 4), "heads=4: must divide width=10"),
        (((3,), 5, 6, 1, 8, 4, 0.01), "leaves no hidden unit"),
        (((3,), 5, 6, 1, 8, 4, 1.0, "relu", 0.0, "batch"), "must be one of pre, post, none"),
        (((3,), 5, 6, 1, 8, 4, 1.0, "relu", 0.0, "none", False, "first"), "must be one of last, mean"),
    ],
)
def test_transformers_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Transformer(*arguments)
