"""Accumulating a Gram matrix from blocks of columns of the rows."""

import torch
from torch import Tensor

NARROW = 1024  # blocks of fewer columns are concatenated first
STRIPS = {"cpu": 32, "cuda": 128}  # rows of G in one product; a narrower one is slower than what the symmetry saves


class GramAccumulator:
    """The sum, over blocks of columns, of rows times their transpose.

    >>> accumulator = GramAccumulator(2, torch.float32, torch.device("cpu"))
    >>> accumulator.add(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    >>> accumulator.add(torch.tensor([[1.0], [1.0]]))
    >>> accumulator.total().tolist()
    [[6.0, 7.0], [7.0, 10.0]]

    Args:
        samples: B.
        dtype, device: of the sum.
        strip: rows of G in one matrix product; None: what suits the device.

    Attributes:
        matrix: (B, B), valid on and right of its diagonal. Terms that are computed without rows are added to it.
    """

    def __init__(self, samples: int, dtype: torch.dtype, device: torch.device, strip: int | None = None):
        self.dtype = dtype
        self.matrix = torch.zeros(samples, samples, dtype=dtype, device=device)
        self._strip = strip or min(STRIPS.get(device.type, 128), max(16, samples // 2))
        self._narrow: list[Tensor] = []
        self._narrow_columns = 0

    def like(self) -> "GramAccumulator":
        """Returns a sum of 0 of the same kind."""
        return GramAccumulator(len(self.matrix), self.dtype, self.matrix.device, self._strip)

    def add(self, rows: Tensor) -> None:
        """Accumulates rows @ rows.T. Takes ownership of `rows` (B, columns)."""
        columns = rows.shape[1]
        if columns >= NARROW:
            self._add_wide(rows)
            return
        self._narrow.append(rows)
        self._narrow_columns += columns
        if self._narrow_columns >= NARROW:
            self._add_narrow()

    def total(self) -> Tensor:
        """Returns the sum (B, B)."""
        self._add_narrow()
        return self.matrix.triu() + self.matrix.triu(1).T

    def _add_narrow(self) -> None:
        if self._narrow:
            self._add_wide(torch.cat(self._narrow, 1))
            self._narrow, self._narrow_columns = [], 0

    def _add_wide(self, rows: Tensor) -> None:
        """Adds to the matrix on and right of its diagonal."""
        for start in range(0, len(rows), self._strip):
            stop = start + self._strip
            self.matrix[start:stop, start:].addmm_(rows[start:stop], rows[start:].T)
