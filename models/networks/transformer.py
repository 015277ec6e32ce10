"""Transformers on sequences of tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .mlp import ACTIVATIONS

NORMS = ("pre", "post", "none")
POOLINGS = ("last", "mean")


class Attention(nn.Module):
    """Multi-head self-attention, (B, L, D) -> (B, L, D): softmax(Q K^T / sqrt(D / heads)) V in each head.

    Written with products of matrices: the fused kernels of torch have no second derivatives, which second-order
    optimizers need, and are no faster on short sequences.
    """

    def __init__(self, width: int, heads: int, dropout: float, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the projected sum over positions."""
        samples, length, width = x.shape
        queries, keys, values = self.qkv(x).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = queries @ keys.transpose(2, 3) * (width // self.heads) ** -0.5
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
            scores = scores.masked_fill(later, float("-inf"))
        mixed = self.dropout(scores.softmax(3)) @ values
        return self.proj(mixed.transpose(1, 2).reshape(samples, length, width))


class Block(nn.Module):
    """Attention and a two-layer network at each position, each with a residual connection, (B, L, D) -> (B, L, D)."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, dropout: float, norm: str, causal: bool):
        super().__init__()
        self.pre, self.post = norm == "pre", norm == "post"
        self.norm1, self.norm2 = (nn.Identity() if norm == "none" else nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads, dropout, causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), ACTIVATIONS[activation](), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the sum of the residual stream and both branches."""
        for norm, branch in ((self.norm1, self.attention), (self.norm2, self.mlp)):
            x = x + self.dropout(branch(norm(x) if self.pre else x))
            x = norm(x) if self.post else x
        return x


class Transformer(nn.Module):
    """Transformer that classifies sequences of tokens, (B, L) int64 -> (B, num_classes).

    Learned embeddings of tokens and positions, blocks of attention and a two-layer network (Vaswani et al. 2017, arXiv
    1706.03762), and one linear layer on the last position or on the mean over positions. By default it is the network
    of Nanda et al. 2023 (arXiv 2301.05217) on modular addition: one layer without normalization, of width 128 with 4
    heads and 512 hidden units with ReLU. Embeddings begin with the variance 1 / width, linear layers as in torch.

    >>> network = Transformer((3,), 113, num_tokens=114)
    >>> network(torch.zeros(5, 3, dtype=torch.int64)).shape
    torch.Size([5, 113])
    >>> sum(p.numel() for p in network.parameters())
    227313

    Args:
        input_shape: (L,), the length of the sequences.
        num_classes: number of outputs.
        num_tokens: number of different tokens; None: the data has no tokens, which is refused.
        layers: blocks.
        width: D, numbers that each position is represented by; a multiple of `heads`.
        heads: of the attention.
        mlp_ratio: hidden units of a block's two-layer network, in units of `width`.
        activation: of these units, a key of `ACTIVATIONS`.
        dropout: probability that an entry is dropped while training: of the embedding, the attention, the hidden
            units, and the outputs of both branches.
        norm: layer norm `pre`: before each branch, and once at the end (GPT-2); `post`: after each sum (Vaswani et al.
            2017); `none`.
        causal: whether a position sees only itself and those before it.
        pooling: what is classified: the `last` position, or the `mean` over positions.

    Raises:
        ValueError: the inputs are no tokens, or an argument is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        num_classes: int,
        num_tokens: int | None = None,
        layers: int = 1,
        width: int = 128,
        heads: int = 4,
        mlp_ratio: float = 4.0,
        activation: str = "relu",
        dropout: float = 0.0,
        norm: str = "none",
        causal: bool = False,
        pooling: str = "last",
    ):
        if num_tokens is None or len(input_shape) != 1:
            raise ValueError(
                "a transformer needs sequences of tokens, integers of shape (N, L), as data=modular_addition has;"
                f" the inputs of this data have the shape {tuple(input_shape)}"
            )
        if width % heads:
            raise ValueError(f"heads={heads}: must divide width={width}")
        if norm not in NORMS:
            raise ValueError(f"norm={norm}: must be one of {', '.join(NORMS)}")
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling}: must be one of {', '.join(POOLINGS)}")
        hidden = round(mlp_ratio * width)
        if hidden < 1:
            raise ValueError(f"mlp_ratio={mlp_ratio}: leaves no hidden unit at width={width}")
        super().__init__()
        self.pooling = pooling
        self.tokens = nn.Embedding(num_tokens, width)
        self.positions = nn.Embedding(input_shape[0], width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)
        blocks = (Block(width, heads, hidden, activation, dropout, norm, causal) for _ in range(layers))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Module:
        """Returns the last layer, as timm's networks do."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (B, num_classes)."""
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        x = self.norm(self.blocks(self.dropout(self.tokens(x) + self.positions(places))))
        return self.head(x[:, -1] if self.pooling == "last" else x.mean(1))
