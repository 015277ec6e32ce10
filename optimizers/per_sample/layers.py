"""Per-sample gradients of one call of a layer, from its input and the gradient with respect to its output.

A convolution of B samples equals one of a single sample with B times as many groups; the gradient of its weights
then has an entry for each sample. The same holds for batch norm, with B times as many channels. So the kernels of the
backward pass compute rows of per-sample gradients, at its speed.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from .accumulator import GramAccumulator
from .kernels import kernels

aten = torch.ops.aten
Rows = tuple[Tensor, Tensor]  # a parameter, and some or all columns of its rows (B, columns)

BLOCK = 3 * 2**20  # entries of rows that are in memory at a time
LANES = 16  # channels that oneDNN's kernels for a CPU compute at a time; they are slow with a remainder
COPY = 30  # multiplications in a matrix product that take as long as copying a number


class LayerCall(ABC):
    """One call of a layer.

    Args:
        inputs: of the layer, (B, ...).
        weight: its weights, None where these are not trained.
        bias: its biases, None where these are not trained.
    """

    def __init__(self, inputs: Tensor, weight: Tensor | None, bias: Tensor | None):
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

    def add_to(self, total: GramAccumulator, x: Tensor, dy: Tensor, block: int = BLOCK) -> bool:
        """Adds rows times their transpose, if that is cheaper without `rows`; returns whether it was added.

        Args:
            total: the sum.
            x: the inputs, in the precision of the sum.
            dy: gradient of the loss with respect to the outputs.
            block: entries in memory at a time, about.
        """
        del total, x, dy, block
        return False


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

    def add_to(self, total: GramAccumulator, x: Tensor, dy: Tensor, block: int = BLOCK) -> bool:
        """Compares pairs of positions where these are few."""
        x, dy = positions(x), positions(dy)
        if self.weight is None or not pairs_are_cheaper(len(x), x.shape[1], x.shape[2], dy.shape[2]):
            return False
        total.matrix += gram_of_pairs(x, dy, self.bias is not None, block)
        return True


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

    def add_to(self, total: GramAccumulator, x: Tensor, dy: Tensor, block: int = BLOCK) -> bool:
        """Compares pairs of positions where these are few."""
        if self.weight is None:
            return False
        tokens, dy = self._at_positions(dy)
        samples, places = tokens.shape
        if not pairs_are_cheaper(samples, places, 1, dy.shape[2], len(self.weight)):
            return False
        parts = []
        for some, some_dy in zip(*(t.split(block_size(block, places**2 * samples)) for t in (tokens, dy)), strict=True):
            products = some_dy.flatten(0, 1) @ dy.flatten(0, 1).T
            products *= some.flatten()[:, None] == tokens.flatten()
            parts.append(products.view(len(some), places, samples, places).sum((1, 3)))
        total.matrix += torch.cat(parts)
        return True

    def _at_positions(self, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Returns tokens (B, T) and their gradients (B, T, D)."""
        tokens, dy = self.inputs.reshape(len(self.inputs), -1), positions(dy)
        if self.padding is not None:
            dy = dy * (tokens != self.padding)[:, :, None]
        return tokens, dy


class Convolution(LayerCall):
    """A convolution in 1, 2 or 3 dimensions, (B, C, ...) -> (B, O, ...), with groups.

    Args:
        shape: of the weights, (O, C / groups, ...).
        stride, padding, dilation: per dimension.
        groups: their number.
    """

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shape: torch.Size,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        groups: int,
    ):
        super().__init__(inputs, weight, bias)
        self.shape, self.groups = shape, groups
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields the gradients by blocks of output channels or groups."""
        if self.weight is not None:
            columns = self.shape[1:].numel()
            if self.groups == 1:
                parts = [(x, part) for part in dy.split(block_size(block, len(x) * columns, LANES), 1)]
            else:
                per_group = self.shape[0] // self.groups
                groups = block_size(block, len(x) * per_group * columns)
                inputs = x.split(groups * self.shape[1], 1)
                parts = list(zip(inputs, dy.split(groups * per_group, 1), strict=True))
            for part in parts:
                yield self.weight, self._weight_rows(*part, block)
        if self.bias is not None:
            yield self.bias, dy.flatten(2).sum(2)

    def add_to(self, total: GramAccumulator, x: Tensor, dy: Tensor, block: int = BLOCK) -> bool:
        """Compares pairs of patches where these are few; otherwise a kernel multiplies rows, on a CPU that has one."""
        if self.weight is None or self.groups > 1:
            return False
        columns, places = self.shape[1:].numel(), dy.shape[2:].numel()
        if pairs_are_cheaper(len(x), places, columns, dy.shape[1]):
            patches = self._patches(x).transpose(1, 2)
            total.matrix += gram_of_pairs(patches, positions(dy, 1), self.bias is not None, block)
            return True
        compiled = kernels()
        if compiled is None or len(self.shape) != 4 or not compiled.supports(x, dy):
            return False
        compiled.add_convolution(total.matrix, x, dy, self.shape[2:], self.stride, self.padding, self.dilation)
        if self.bias is not None:
            total.add(dy.flatten(2).sum(2))
        return True

    def _weight_rows(self, x: Tensor, dy: Tensor, block: int) -> Tensor:
        """Returns the rows (B, O * C / groups * ...) of the weights of these output channels."""
        samples, width = len(x), self.shape[1]
        groups = x.shape[1] // width
        x, dy = x.reshape(samples * groups, width, *x.shape[2:]), dy.reshape(samples * groups, -1, *dy.shape[2:])
        outputs = dy.shape[1]
        by_groups = outputs * width if outputs * width == 1 else padded_channels(outputs) * padded_channels(width)
        if x.device.type == "cpu" and by_groups < outputs * width + COPY * width:
            return self._by_groups(x, dy).view(samples, -1)
        at_once = block_size(block, self.shape[1:].numel() * dy[0, 0].numel())
        pieces = zip(x.split(at_once), dy.flatten(2).split(at_once), strict=True)
        return torch.cat([torch.bmm(d, self._patches(x).transpose(1, 2)) for x, d in pieces]).view(samples, -1)

    def _by_groups(self, x: Tensor, dy: Tensor) -> Tensor:
        """Returns the rows as the gradient of one convolution in which each sample is a group or several."""
        n, (groups, width), outputs = x.dim() - 2, x.shape[:2], dy.shape[1]
        if x.dtype == torch.float32 and outputs * width > 1:
            x, dy = (_with_channels(t, padded_channels(t.shape[1])) for t in (x, dy))
        weight = x.new_empty(groups * dy.shape[1], x.shape[1], *self.shape[2:])
        one_sample = (t.reshape(1, -1, *t.shape[2:]) for t in (dy, x))
        options = (self.stride, self.padding, self.dilation, False, [0] * n, groups, [False, True, False])
        gradient = aten.convolution_backward(*one_sample, weight, None, *options)[1]
        return gradient.view(groups, dy.shape[1], x.shape[1], -1)[:, :outputs, :width].reshape(groups, -1)

    def _patches(self, x: Tensor) -> Tensor:
        """Returns the patches that the outputs are computed from, (B, C * ..., T), of inputs of one group."""
        x = F.pad(x, [m for p in reversed(self.padding) for m in (p, p)]).contiguous()
        kernel = self.shape[2:]
        reach = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
        places = [(m - r - 1) // s + 1 for m, r, s in zip(x.shape[2:], reach, self.stride, strict=True)]
        strides = x.stride()[2:]
        taps = [d * s for d, s in zip(self.dilation, strides, strict=True)]
        steps = [d * s for d, s in zip(self.stride, strides, strict=True)]
        patches = x.as_strided((*x.shape[:2], *kernel, *places), (*x.stride()[:2], *taps, *steps))
        return patches.reshape(len(x), -1, math.prod(places))


class BatchNorm(LayerCall):
    """Batch norm, y = w xhat + b, (B, C, ...) -> (B, C, ...): row_i = sum_t (dy_it xhat_it, dy_it).

    Args:
        statistics: returns the mean and 1 / sqrt(variance + eps), (C,) each; called when the rows are computed.
    """

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Callable[[], tuple[Tensor, Tensor]],
    ):
        super().__init__(inputs, weight, bias)
        self.statistics = statistics

    def rows(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> Iterator[Rows]:
        """Yields the gradients of a batch norm in which each channel of each sample is a channel."""
        samples, channels = x.shape[:2]
        mean, scale = (s.to(x.dtype).expand(samples, -1).reshape(-1) for s in self.statistics())
        one_sample = (t.reshape(1, samples * channels, -1) for t in (dy, x))
        mask = [False, self.weight is not None, self.bias is not None]
        _, of_weight, of_bias = aten.native_batch_norm_backward(
            *one_sample, None, None, None, mean, scale, True, 0.0, mask
        )
        for param, sums in ((self.weight, of_weight), (self.bias, of_bias)):
            if param is not None:
                yield param, sums.view(samples, channels)

    def add_to(self, total: GramAccumulator, x: Tensor, dy: Tensor, block: int = BLOCK) -> bool:
        """Lets a kernel sum over positions, on a CPU that has one."""
        compiled = kernels()
        if compiled is None or self.weight is None or self.bias is None or not compiled.supports(x, dy):
            return False
        total.add(compiled.norm_sums(x, dy, *self.statistics()))
        return True


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


def padded_channels(channels: int) -> int:
    """Returns the number of channels rounded up to a multiple of LANES."""
    return -(-channels // LANES) * LANES


def _with_channels(t: Tensor, channels: int) -> Tensor:
    """Returns (B, C, ...) with further channels of zeros."""
    return t if t.shape[1] == channels else F.pad(t, (*[0, 0] * (t.dim() - 2), 0, channels - t.shape[1]))


def block_size(block: int, entries: int, multiple: int = 1) -> int:
    """Returns how many parts of `entries` entries fit into a block: a multiple of `multiple`, and at least that."""
    return max(1, block // (entries * multiple)) * multiple


def pairs_are_cheaper(samples: int, places: int, inputs: int, outputs: int, tokens: int = 1) -> bool:
    """Returns whether comparing pairs of positions takes fewer multiplications than rows and their products.

    Args:
        samples: B.
        places: T, positions of a sample.
        inputs: numbers per position that the weights multiply.
        outputs: numbers per position that result.
        tokens: rows of an embedding's table; 1 for another layer.
    """
    pairs = (samples * places) ** 2 * (inputs + outputs + 1)
    rows = (samples * places * inputs * outputs + samples**2 * inputs * outputs) * tokens
    return pairs < rows


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
