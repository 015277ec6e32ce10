"""The sum of which a Gram matrix is made."""

import torch
from torch import Tensor

NARROW = 1024  # blocks of fewer columns are put together
STRIP = 128  # rows of G that are computed at a time; narrower products are slower than what symmetry saves


class GramSum:
    """The sum of rows times their transpose, over blocks of columns.

    Args:
        samples: B.
        dtype, device: of the sum.

    Attributes:
        matrix: (B, B); what is on and right of its diagonal counts. What is computed without rows is added to it.
    """

    def __init__(self, samples: int, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.matrix = torch.zeros(samples, samples, dtype=dtype, device=device)
        self._narrow: list[Tensor] = []
        self._columns = 0  # of these

    def add(self, rows: Tensor) -> None:
        """Adds rows (B, columns), which are the caller's no more."""
        columns = rows.shape[1]
        if columns >= NARROW:
            self._add_wide(rows)
            return
        self._narrow.append(rows)
        self._columns += columns
        if self._columns >= NARROW:
            self._add_narrow()

    def total(self) -> Tensor:
        """Returns the sum (B, B)."""
        self._add_narrow()
        return self.matrix.triu() + self.matrix.triu(1).T

    def _add_narrow(self) -> None:
        if self._narrow:
            self._add_wide(torch.cat(self._narrow, 1))
            self._narrow, self._columns = [], 0

    def _add_wide(self, rows: Tensor) -> None:
        """Adds to what is on and right of the diagonal."""
        for start in range(0, len(rows), STRIP):
            stop = start + STRIP
            self.matrix[start:stop, start:].addmm_(rows[start:stop], rows[start:].T)
