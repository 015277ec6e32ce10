"""Per-sample gradients of the weights of a convolution, in the forms that PyTorch has for them."""

import math
from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from .accumulator import GramAccumulator
from .layers import BLOCK, Form, LayerCall, Rows, block_size, cost_of_pairs, gram_of_pairs, positions, with_pairs

aten = torch.ops.aten
# takes inputs (n, C, ...) and gradients (n, O, ...); returns parts (n, columns) of rows
RowsOf = Callable[[Tensor, Tensor], list[Tensor]]

LANES = 16  # channels that oneDNN's kernels for a CPU compute at a time; they are slow with a remainder
COPY = 30  # multiplications in a matrix product that take as long as copying a number
CACHED = 3 * 2**17  # entries of a copy that a core of a CPU finds again in its cache
FEW_POSITIONS = 128  # of outputs, up to which a CPU is faster with shifted views than with groups


class Convolution(LayerCall):
    """A convolution in 1, 2 or 3 dimensions, (B, C, ...) -> (B, O, ...), with groups: row_i = sum_t dy_it patch_it^T.

    The forms, of which each computes the same numbers to rounding:

    groups: a convolution of B samples equals one of a single sample with B times as many groups; the gradient of its
        weights then has an entry for each sample.
    unfold: the patches of the inputs are copied, and multiplied with the gradients.
    shifted: without strides, the inputs at a distance of whole lines are views. Only the gradients are copied, once
        for each shift within a line, as far as such a shift stays inside the line.
    pairs: all positions of all samples are compared, <patch_is, patch_jt> <dy_is, dy_jt>.

    Args:
        shape: of the weights, (O, C / groups, ...).
        stride, padding, dilation: per dimension.
        groups: their number.

    Attributes:
        returns_sum: whether the forms are those of rows alone, and return the sum of the weights' rows, which is the
            gradient of the weights.
    """

    returns_sum = False

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
            for rows in self._weight_rows(x, dy, block, self._ordered(x)[0]):
                yield self.weight, rows
        if self.bias is not None:
            yield self.bias, dy.flatten(2).sum(2)

    def describe(self, x: Tensor, dy: Tensor) -> str:
        """Returns the shapes, the kernel and its options."""
        options = (tuple(self.shape), self.stride, self.padding, self.dilation, self.groups)
        return " ".join([super().describe(x, dy), *map(str, options)])

    def forms(self, x: Tensor, dy: Tensor, block: int = BLOCK) -> dict[str, Form]:
        """Returns products of rows, computed in one form or another, and the comparison of pairs of positions."""
        if self.weight is None:
            return super().forms(x, dy, block)
        names = self._ordered(x)
        if all(s == 1 for s in self.stride):
            names.insert(0 if self._suits_shifts(x, dy) else 1, "shifted")
        forms = {name: self._by_rows(x, dy, block, name) for name in names}
        if self.groups > 1 or self.returns_sum:
            return forms

        def by_pairs(total: GramAccumulator) -> None:
            patches = self._patches(x).transpose(1, 2)
            total.matrix += gram_of_pairs(patches, positions(dy, 1), self.bias is not None, block)

        cost = cost_of_pairs(len(x), dy.shape[2:].numel(), self.shape[1:].numel(), dy.shape[1])
        return with_pairs(forms, by_pairs, cost)

    def _suits_shifts(self, x: Tensor, dy: Tensor) -> bool:
        """Returns whether shifted views are the usual form: with a 1x1 kernel, or for wide layers on a CPU."""
        if self.groups > 1:
            return False
        is_wide = min(self.shape[:2]) >= LANES and dy.shape[2:].numel() <= FEW_POSITIONS
        return self.shape[2:].numel() == 1 or (is_wide and x.device.type == "cpu")

    def _ordered(self, x: Tensor) -> list[str]:
        """Returns the forms whose columns are in the weights' order, first the one that is faster by counting."""
        width, outputs = self.shape[1], self.shape[0] // self.groups
        multiplied = outputs * width if outputs * width == 1 else padded_channels(outputs) * padded_channels(width)
        groups_first = x.device.type == "cpu" and multiplied < outputs * width + COPY * width
        return ["groups", "unfold"] if groups_first else ["unfold", "groups"]

    def _by_rows(self, x: Tensor, dy: Tensor, block: int, name: str) -> Form:
        def form(total: GramAccumulator) -> Tensor | None:
            sums = []
            for rows in self._weight_rows(x, dy, block, name):
                if self.returns_sum:
                    sums.append(rows.new_ones(len(rows)) @ rows)  # faster than a sum over the first dimension
                total.add(rows)
            if self.bias is not None:
                total.add(dy.flatten(2).sum(2))
            return self._sum_of_rows(sums, name) if sums else None

        return form

    def has_few_pairs(self, outputs: Tensor) -> bool:
        """Returns whether the comparison of pairs is the form of the table."""
        return next(iter(self.forms(self.inputs, outputs))) == "pairs"

    def weight_gradient(self, dy: Tensor) -> Tensor:
        """Returns the gradient of the weights, computed without rows."""
        dtype = torch.promote_types(self.inputs.dtype, dy.dtype)
        x, no_margin = self.inputs.to(dtype), [0] * (dy.dim() - 2)
        options = (self.stride, self.padding, self.dilation, False, no_margin, self.groups, [False, True, False])
        return aten.convolution_backward(dy.to(dtype), x, x.new_empty(self.shape), None, *options)[1]

    def _sum_of_rows(self, sums: list[Tensor], name: str) -> Tensor:
        """Returns the gradient of the weights from sums of what `_weight_rows` yields."""
        if name != "shifted":
            return torch.cat(sums).view(self.shape)
        lines, taps, width = self.shape[2], self.shape[3:].numel(), self.shape[1]
        parts = []
        for first in range(0, len(sums), lines):
            groups = 1 if self.groups == 1 else sums[first].numel() * self.groups // (taps * width * self.shape[0])
            by_line = torch.stack(sums[first : first + lines]).view(lines, groups, taps, -1, width)
            parts.append(by_line.permute(1, 3, 4, 0, 2).flatten(0, 1))
        return torch.cat(parts).reshape(self.shape)

    def _weight_rows(self, x: Tensor, dy: Tensor, block: int, name: str) -> Iterator[Tensor]:
        """Yields the rows (B, columns) of the weights, of as many output channels or groups as fit into a block."""
        compute: RowsOf = {"groups": self._grouped, "unfold": self._unfolded, "shifted": self._shifted}[name]
        samples, width, columns = len(x), self.shape[1], self.shape[1:].numel()
        per_group = self.shape[0] // self.groups
        if self.groups == 1:
            parts = [(x, part) for part in dy.split(block_size(block, samples * columns, LANES), 1)]
        else:
            groups = block_size(block, samples * per_group * columns)
            parts = list(zip(x.split(groups * width, 1), dy.split(groups * per_group, 1), strict=True))
        for some_x, some_dy in parts:
            separate = samples * some_x.shape[1] // width  # samples, or groups of samples
            x_of_each, dy_of_each = (t.reshape(separate, -1, *t.shape[2:]) for t in (some_x, some_dy))
            for rows in compute(x_of_each, dy_of_each):
                yield rows.view(samples, -1)

    def _grouped(self, x: Tensor, dy: Tensor) -> list[Tensor]:
        """Returns the rows as the gradient of one convolution in which each sample is a group or several."""
        n, (groups, width), outputs = x.dim() - 2, x.shape[:2], dy.shape[1]
        if x.dtype == torch.float32 and outputs * width > 1:
            x, dy = (_with_channels(t, padded_channels(t.shape[1])) for t in (x, dy))
        weight = x.new_empty(groups * dy.shape[1], x.shape[1], *self.shape[2:])
        one_sample = (t.reshape(1, -1, *t.shape[2:]) for t in (dy, x))
        options = (self.stride, self.padding, self.dilation, False, [0] * n, groups, [False, True, False])
        gradient = aten.convolution_backward(*one_sample, weight, None, *options)[1]
        return [gradient.view(groups, dy.shape[1], x.shape[1], -1)[:, :outputs, :width].reshape(groups, -1)]

    def _unfolded(self, x: Tensor, dy: Tensor) -> list[Tensor]:
        """Returns the rows as products of gradients and patches."""
        at_once = block_size(_copied(x), self.shape[1:].numel() * dy[0, 0].numel())
        pieces = zip(x.split(at_once), dy.flatten(2).split(at_once), strict=True)
        return [torch.cat([torch.bmm(d, self._patches(x).transpose(1, 2)) for x, d in pieces]).flatten(1)]

    def _shifted(self, x: Tensor, dy: Tensor) -> list[Tensor]:
        """Returns for each line of the kernel the products of shifted gradients and a view of the inputs."""
        (lines, *sizes), outputs, line = self.shape[2:], dy.shape[1], x.shape[3:].numel()
        taps = math.prod(sizes)
        rows = x.new_empty(lines, len(x), taps * outputs, x.shape[1])
        at_once = block_size(_copied(x), taps * outputs * dy.shape[2] * line)
        for part, x_part, dy_part in zip(rows.split(at_once, 1), x.split(at_once), dy.split(at_once), strict=True):
            views, copies = x_part.flatten(2), self._shifted_within_lines(x_part, dy_part)
            for k in range(lines):
                first, last, shift = self._overlap(0, k, x.shape[2], dy.shape[2])
                if first == last:
                    part[k].zero_()
                    continue
                view = views[:, :, (first + shift) * line : (last + shift) * line]
                torch.bmm(copies[:, :, first * line : last * line], view.transpose(1, 2), out=part[k])
        return list(rows.flatten(2))

    def _shifted_within_lines(self, x: Tensor, dy: Tensor) -> Tensor:
        """Returns the gradients at the positions of the inputs that each tap of a line multiplies, (n, taps O, T)."""
        inner = x.shape[3:]
        taps = list(product(*(range(k) for k in self.shape[3:])))
        if inner == dy.shape[3:] and len(taps) == 1 and not any(self.padding[1:]):
            return dy.flatten(2)
        shifted = dy.new_zeros(len(x), len(taps), *dy.shape[1:3], *inner)
        for number, tap in enumerate(taps):
            to, of = [slice(None)] * 3, [slice(None)] * 3
            for d, k in enumerate(tap, start=1):
                first, last, shift = self._overlap(d, k, x.shape[2 + d], dy.shape[2 + d])
                to.append(slice(first + shift, last + shift))
                of.append(slice(first, last))
            shifted[:, number][tuple(to)] = dy[tuple(of)]
        return shifted.view(len(x), -1, dy.shape[2] * inner.numel())

    def _overlap(self, dimension: int, k: int, inputs: int, outputs: int) -> tuple[int, int, int]:
        """Returns the first and the last + 1 of the outputs whose input for tap k is inside, and its distance."""
        shift = k * self.dilation[dimension] - self.padding[dimension]
        first, last = max(0, -shift), min(outputs, inputs - shift)
        return (first, last, shift) if first < last else (0, 0, 0)

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


def padded_channels(channels: int) -> int:
    """Returns the number of channels rounded up to a multiple of LANES."""
    return -(-channels // LANES) * LANES


def _with_channels(t: Tensor, channels: int) -> Tensor:
    """Returns (B, C, ...) with further channels of zeros."""
    return t if t.shape[1] == channels else F.pad(t, (*[0, 0] * (t.dim() - 2), 0, channels - t.shape[1]))


def _copied(x: Tensor) -> int:
    """Returns how many entries of inputs or gradients are copied at a time."""
    return CACHED if x.device.type == "cpu" else BLOCK
