"""Gram matrices of per-sample gradients with torch's attention, against a backward pass for each sample."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from helpers.references import close, numbers, rows_of_samples
from trainopt.optimizers import gradient_gram
from trainopt.optimizers.per_sample.gram import own_loss_gram
from trainopt.optimizers.per_sample.recorder import GramRecorder

B = 5


class Attending(nn.Module):
    """Torch's attention between linear layers; `of` says what queries, keys and values are of the tokens."""

    def __init__(self, of="self", **options):
        super().__init__()
        self.of, self.first = of, nn.Linear(7, 6)
        dimensions = {"kdim": 4, "vdim": 5} if of == "three" else {}
        self.attention = nn.MultiheadAttention(6, 2, **dimensions, **options)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        others = {
            "self": (x, x),
            "cross": (x.sin(),) * 2,
            "three": (x[..., :4], x[..., 1:]),
            "apart": (x.sin(), x),
        }
        y = self.attention(x, *others[self.of])[0]
        return self.last(y.mean(1 if self.attention.batch_first else 0))


ATTENTION = {
    "self": lambda: Attending(batch_first=True),
    "positions first": Attending,
    "without biases": lambda: Attending(bias=False, batch_first=True),
    "cross": lambda: Attending("cross", batch_first=True),
    "queries, keys and values of their own": lambda: Attending("apart"),
    "of different widths": lambda: Attending("three", batch_first=True),
    "an encoder": lambda: nn.Sequential(
        nn.Linear(7, 6),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), 2),
        nn.Flatten(),
        nn.Linear(18, 4),
    ),
    "twice": lambda: nn.Sequential(
        nn.Linear(7, 6),
        *[nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)] * 2,
        nn.Flatten(),
        nn.Linear(18, 4),
    ),
}


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("mode", ["train", "evaluation"])
def test_rows_of_torchs_attention(name, mode):
    torch.manual_seed(0)
    network = ATTENTION[name]().double().train(mode == "train")
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    x, y = numbers(B, 3, 7), torch.arange(B) % 4
    loss = cross_entropy(network(x), y)
    J = rows_of_samples(network, cross_entropy, x, y)
    close(gradient_gram(network, cross_entropy, x, y), J @ J.T)
    close(own_loss_gram(network, lambda: cross_entropy(network(x), y, reduction="none")), J @ J.T)
    assert torch.equal(cross_entropy(network(x), y), loss)


def test_frozen_parts_of_attention_do_not_count():
    network = Attending(batch_first=True).double()
    network.attention.in_proj_weight.requires_grad_(False)
    network.attention.out_proj.bias.requires_grad_(False)
    x, y = numbers(B, 3, 7), torch.arange(B) % 4
    J = rows_of_samples(network, cross_entropy, x, y)
    close(gradient_gram(network, cross_entropy, x, y), J @ J.T)


def test_training_with_attention_is_bit_for_bit_the_same():
    torch.manual_seed(0)
    network = ATTENTION["an encoder"]()
    for layer in network[1].layers:
        layer.dropout.p = layer.self_attn.dropout = 0.3
    x, y = numbers(B, 3, 7).float(), torch.arange(B) % 4
    actual = []
    for recorded in (False, True):
        torch.manual_seed(1)
        recorder = GramRecorder(network)
        with recorder.recording() if recorded else nullcontext():
            actual.append(torch.autograd.grad(cross_entropy(network(x), y), list(network.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*actual, strict=True))
