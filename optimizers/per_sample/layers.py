"""Per-sample gradients of one call of a layer, from its input and the gradient with respect to its output.

Batch norm of B samples equals that of a single sample with B times as many channels; the gradient of its weights then
has an entry for each sample. So the kernel of the backward pass computes rows of per-sample gradients, at its speed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .accumulator import GramAccumulator

aten = torch.ops.aten
Rows = tuple[Tensor, Tensor]  # a parameter, and some or all columns of its rows (B, columns)
# adds rows times their transpose; returns the sum of the weights' rows if the call has `returns_sum`
Form = Callable[[GramAccumulator], Tensor | None]

BLOCK = 3 * 2**20  # entries of rows that are in memory at a time
FEW = 8  # times the multiplications of rows, up to which comparing pairs of positions may be the faster form


class LayerCall(ABC):
    """One call of a layer.

    Args:
        inputs: of the layer, (B, ...).
        weight: its weights, None where these are not trained.
        bias: its biases, None where these are not trained.

    Attributes:
        is_first: whether the inputs depend on no trained parameter.
    """

    def __init__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None):
        self.is_first = not inputs.requires_grad
        self.inputs = inputs.detach()
        self.weight, self.bias = weight, bias

    def parameters(self) -> list[Tensor]:
        """Returns the trained parameters of this call."""
        return [p for p in (self.weight, self.bias) if p is not None]

    def batch_first(self, outputs: Tensor) -> Tensor:
        """Returns outputs, or gradients with respect to them, as (B, ...)."""
        return outputs

    @abstractmethod
    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields the rows of each parameter, columns in the parameter's order; those of a large one in blocks.

        Args:
            x: the inputs, in the precision of the rows.
            dy: gradient of the loss with respect to the outputs.
            block: entries of rows in a block, about.
        """

    def describe(self, x: Tensor, dy: Tensor) -> str:
        """Returns what tells this call from calls for which another form may be the fastest."""
        return f"{type(self).__name__} {tuple(x.shape)} {tuple(dy.shape)} {x.device.type}"

    def forms(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> dict[str, Form]:
        """Returns by name the forms in which this call's term of G can be computed, first that of the fixed table.

        Args:
            x: the inputs, in the precision of the sum.
            dy: gradient of the loss with respect to the outputs.
            block: entries in memory at a time, about.
        """

        def by_rows(total: GramAccumulator) -> None:
            for _, rows in self.rows(x, dy, block):
                total.add(rows)

        return {"rows": by_rows}


class Linear(LayerCall):
    """y = W x + b at T positions, (B, ..., D) -> (B, ..., O): row_i = sum_t dy_it x_it^T."""

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields products of inputs and gradients, summed over positions."""
        x, dy = positions(x), positions(dy)
        if self.weight is not None:
            for part in dy.split(block_size(block, len(x) * x.shape[2]), 2):
                yield self.weight, torch.bmm(part.transpose(1, 2), x).flatten(1)
        if self.bias is not None:
            yield self.bias, dy.sum(1)

    def forms(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> dict[str, Form]:
        """Returns products of rows, and the comparison of pairs of positions."""
        forms = super().forms(x, dy, block)
        if self.weight is None:
            return forms
        x, dy = positions(x), positions(dy)

        def by_pairs(total: GramAccumulator) -> None:
            total.matrix += gram_of_pairs(x, dy, self.bias is not None, block)

        return with_pairs(forms, by_pairs, cost_of_pairs(len(x), x.shape[1], x.shape[2], dy.shape[2]))


class Projection(Linear):
    """A linear function in torch's attention, (T, B, D) -> (T, B, O) or (T B, D) -> (T B, O).

    Args:
        inputs: of the function.
        weight: its weights, a parameter or a part of one; None where they are not trained.
        bias: its biases, likewise.
        samples: B.
    """

    def __init__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, samples: int):
        self._samples = samples
        super().__init__(self.batch_first(inputs), weight, bias)

    def batch_first(self, outputs: Tensor) -> Tensor:
        """Returns outputs, or gradients with respect to them, as (B, T, ...)."""
        return outputs.reshape(-1, self._samples, outputs.shape[-1]).transpose(0, 1)


class Embedding(LayerCall):
    """Rows of a table, tokens (B, ...) -> (B, ..., D): the table's row v gets sum_t [x_it = v] dy_it.

    Args:
        inputs: tokens, integers.
        weight: the table (V, D), None where it is not trained.
        padding: the token whose row has no gradient, None where there is none.
    """

    def __init__(self, inputs: Tensor, weight: Tensor | None, padding: int | None):
        super().__init__(inputs, weight, None)
        self.padding = padding

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields sums over the positions that have a token, for blocks of tokens."""
        if self.weight is not None:
            tokens, dy = self._at_positions(dy)
            numbers = torch.arange(len(self.weight), device=dy.device)
            for part in numbers.split(block_size(block, len(tokens) * dy.shape[2])):
                yield self.weight, torch.bmm((part[:, None] == tokens[:, None]).to(dy.dtype), dy).flatten(1)

    def forms(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> dict[str, Form]:
        """Returns products of rows, and the comparison of pairs of positions."""
        forms = super().forms(x, dy, block)
        if self.weight is None:
            return forms
        tokens, dy = self._at_positions(dy)
        samples, places = tokens.shape

        def by_pairs(total: GramAccumulator) -> None:
            pieces = (t.split(block_size(block, places**2 * samples)) for t in (tokens, dy))
            parts = []
            for some, some_dy in zip(*pieces, strict=True):
                products = some_dy.flatten(0, 1) @ dy.flatten(0, 1).T
                products *= some.flatten()[:, None] == tokens.flatten()
                parts.append(products.view(len(some), places, samples, places).sum((1, 3)))
            total.matrix += torch.cat(parts)

        return with_pairs(forms, by_pairs, cost_of_pairs(samples, places, 1, dy.shape[2], len(self.weight)))

    def _at_positions(self, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens (B, T) and their gradients (B, T, D)."""
        tokens, dy = self.inputs.reshape(len(self.inputs), -1), positions(dy)
        if self.padding is not None:
            dy = dy * (tokens != self.padding)[:, :, None]
        return tokens, dy


class BatchNorm(LayerCall):
    """Batch norm, y = w xhat + b, (B, C, ...) -> (B, C, ...): row_i = sum_t (dy_it xhat_it, dy_it).

    Args:
        statistics: returns the mean and 1 / sqrt(variance + eps) of inputs, (C,) each; called when the rows are
            computed.
    """

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Callable[[Tensor], tuple[Tensor, Tensor]],
    ):
        super().__init__(inputs, weight, bias)
        self.statistics = statistics

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields the gradients of a batch norm in which each channel of each sample is a channel."""
        samples, channels = x.shape[:2]
        mean, scale = (s.to(x.dtype).expand(samples, -1).reshape(-1) for s in self.statistics(self.inputs))
        one_sample = (t.reshape(1, samples * channels, -1) for t in (dy, x))
        mask = [False, self.weight is not None, self.bias is not None]
        _, of_weight, of_bias = aten.native_batch_norm_backward(
            *one_sample, torch.ones_like(scale), None, None, mean, scale, True, 0.0, mask
        )
        for param, sums in ((self.weight, of_weight), (self.bias, of_bias)):
            if param is not None:
                yield param, sums.view(samples, channels)


class Norm(LayerCall):
    """Layer, group or instance norm: y = w xhat + b.

    Args:
        normalize: returns xhat of the inputs.
        per_place: whether there is a weight for each place, as in layer norm, (B, ..., *weights); otherwise there is
            one for each channel, (B, C, ...).
    """

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        normalize: Callable[[Tensor], Tensor],
        per_place: bool,
    ):
        super().__init__(inputs, weight, bias)
        self.normalize, self.per_place = normalize, per_place

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields dy xhat and dy, summed over the entries that share a weight."""
        if self.weight is not None:
            yield self.weight, self._summed(dy * self.normalize(x), self.weight)
        if self.bias is not None:
            yield self.bias, self._summed(dy, self.bias)

    def _summed(self, t: Tensor, param: Tensor) -> Tensor:
        if self.per_place:
            return t.reshape(len(t), -1, param.numel()).sum(1)
        return t.reshape(*t.shape[:2], -1).sum(2)


def positions(t: Tensor, channels: int = -1) -> Tensor:
    """Returns (B, ..., D) as (B, T, D); with channels=1, (B, D, ...)."""
    return t.reshape(len(t), -1, t.shape[-1]) if channels == -1 else t.flatten(2).transpose(1, 2)


def block_size(block: int, entries: int, multiple: int = 1) -> int:
    """Returns how many parts of `entries` entries fit into a block: a multiple of `multiple`, and at least that."""
    return max(1, block // (entries * multiple)) * multiple


def cost_of_pairs(samples: int, places: int, inputs: int, outputs: int, tokens: int = 1) -> float:
    """Returns the multiplications that comparing pairs of positions takes, in those of rows and their products.

    Args:
        samples: B.
        places: T, positions of a sample.
        inputs: numbers per position that the weights multiply.
        outputs: numbers per position that result.
        tokens: rows of an embedding's table; 1 for another layer.
    """
    pairs = (samples * places) ** 2 * (inputs + outputs + 1)
    rows = (samples * places * inputs * outputs + samples**2 * inputs * outputs) * tokens
    return pairs / max(rows, 1)


def with_pairs(forms: dict[str, Form], by_pairs: Form, cost: float) -> dict[str, Form]:
    """Returns the forms with the comparison of pairs: first where it takes fewer multiplications, not if far more."""
    if cost < 1:
        return {"pairs": by_pairs, **forms}
    return {**forms, "pairs": by_pairs} if cost <= FEW else forms


def gram_of_pairs(x: Tensor, dy: Tensor, with_bias: bool, block: int = BLOCK) -> Tensor:
    """Returns G_ij = sum_st <x_is, x_jt> <dy_is, dy_jt>.

    Args:
        x: inputs (B, T, D).
        dy: gradients (B, T, O).
        with_bias: add 1 to each <x_is, x_jt>, as of an input that is always 1.
        block: entries in memory at a time, about.
    """
    samples, places = x.shape[:2]
    all_x, all_dy = x.reshape(samples * places, -1), dy.reshape(samples * places, -1)
    parts = []
    for some_x, some_dy in zip(*(t.split(block_size(block, places**2 * samples)) for t in (x, dy)), strict=True):
        products = some_x.flatten(0, 1) @ all_x.T
        if with_bias:
            products += 1
        products *= some_dy.flatten(0, 1) @ all_dy.T
        parts.append(products.view(len(some_x), places, samples, places).sum((1, 3)))
    return torch.cat(parts)
